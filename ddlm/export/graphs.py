"""All graphs of a bundle, one after the other, each checked before it is kept."""

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.sampler import sample
from ddlm.diffusion.tokens import Draw
from ddlm.export import ExportConfig, gates, onnx, variants
from ddlm.export.choice import Vocabulary
from ddlm.export.gates import Gate, GraphError
from ddlm.export.quality import Ground
from ddlm.export.runtime import step, tokens
from ddlm.export.runtime.integrity import MODEL
from ddlm.export.text import Text, random_rows
from ddlm.generation import DiffusionPipeline
from ddlm.model.transformer import Denoiser
from ddlm.tokenizer import Tokenizer

PROBE_STEPS = 6
PROBES = ((0, False), (1, True), (2, True))
"""Seeds, and whether the text fills the canvas: one that draws its end may be empty."""
logger = logging.getLogger(__name__)


@dataclass
class Made:
    """What was made. graphs: of each file what the manifest says of it. figures: how near each network came to torch.
    quality: what each loses on real text and in what it writes. left_out: networks that are not shipped, and why."""

    graphs: dict[str, dict[str, Any]] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    quality: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


class Workshop:
    """Makes the graphs of a pipeline on the CPU.

    folder: where those of the bundle go. scratch: a folder for others. sampling: the bundle's. text: None takes random
    tokens to compare the graphs with torch, and quantises nothing. There is one network graph in memory at a time.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        folder: Path,
        scratch: Path,
        export: ExportConfig,
        sampling: SamplingConfig,
        text: Text | None,
        seed: int,
    ) -> None:
        self.pipeline, self.folder, self.scratch, self.export = pipeline, folder, scratch, export
        self.sampling, self.text, self.seed, self.made = sampling, text, seed, Made()
        shape, tokenizer = (export.check_batches, pipeline.seq_len), pipeline.tokenizer
        self.rows = random_rows(shape, tokenizer.mask_id, seed) if text is None else text.rows.tokens[: shape[0]]
        self.networks: dict[str, Path] = {}
        self.lengths = sorted({pipeline.seq_len, *export.lengths}, reverse=True)

    def make(self) -> Made:
        """Raises: GraphError by the first gate that a graph does not pass."""
        for precision in sorted({"float32", *self.export.precisions}, reverse=True):
            model = self.pipeline.model
            if precision == "float16":
                gate, found = gates.activations(model, self._batches(self.pipeline.seq_len))
                self.made.gates.append(gate)
                self.made.figures["activations"] = found
                model = onnx.halved(model)
            for length in self.lengths:
                self._make(model, precision, length)
        if self.text is not None and self.text.is_enough:
            self._make_quantised(self.text)
        else:
            reason = "there is too little text to measure it on" if self.text else "there is no text to measure it on"
            self.made.left_out = dict.fromkeys(self.export.quantised, reason)
        return self.made

    def _make(self, model: Denoiser, precision: str, length: int) -> None:
        is_whole = length == self.pipeline.seq_len
        is_kept = is_whole and precision == "float32"
        if not is_kept and precision not in self.export.precisions:
            return
        network = self.folder / MODEL if is_kept else self.scratch / f"{precision} network for {length} tokens"
        self._make_network(model, network, precision, length)
        if is_whole:
            self.networks[precision] = network
        if is_kept:
            self.made.gates += gates.form(network)
            self.made.graphs[network.name] = {"kind": "logits", "precision": precision, "length": length}
        if precision in self.export.precisions:
            self._make_step(network, precision, length)

    def _make_network(self, model: Denoiser, path: Path, precision: str, length: int) -> None:
        logger.info("export: the network in %s, for %d tokens", precision, length)
        onnx.export_logits(model, length, path, self.export.opset)
        mask_id = self.pipeline.tokenizer.mask_id
        found = gates.compare(path, self.pipeline.model, self._batches(length), mask_id=mask_id)
        name = precision if length == self.pipeline.seq_len else f"{precision}_{length}"
        self.made.gates.append(gates.parity(path.name, found, precision, self.export))
        self.made.figures[name] = found

    def _make_quantised(self, text: Text) -> None:
        """Those that lose little on the text become graphs of the bundle."""
        pipeline, export = self.pipeline, self.export
        ground = Ground(
            pipeline.tokenizer, text.rows[: export.quality_rows], self._batches(pipeline.seq_len), self.sampling,
            self.seed, masks_per_row=export.quality_masks, samples=export.quality_texts,
            story=None if text.story is None else text.story[: export.quality_rows],
            is_autoregressive=pipeline.is_autoregressive,
        )  # fmt: skip
        calibration = gates.masked_batches(text.calibration, pipeline.tokenizer.mask_id, self.seed)
        found = variants.make(self.networks, self.scratch, calibration, ground, export)
        self.made.quality, self.made.left_out = found.figures, found.left_out
        for name, path in found.kept.items():
            if name in variants.FOR_TENSORRT:
                self._make_step(path, variants.FOR_TENSORRT[name], pipeline.seq_len)
            else:
                self._add_network(path, variants.FOR_THE_PROCESSOR[name])

    def _add_network(self, path: Path, precision: str) -> None:
        """One that only a processor runs, so that nothing is asked of it but to be valid; it was measured."""
        kept = path.rename(self.folder / f"{Path(MODEL).stem}_{precision}.onnx")
        self.made.gates.append(gates.checker(kept))
        self.made.graphs[kept.name] = {"kind": "logits", "precision": precision, "length": self.pipeline.seq_len}

    def _batches(self, length: int) -> list[NDArray[np.int32]]:
        return gates.masked_batches(self.rows[:, :length], self.pipeline.tokenizer.mask_id, self.seed)

    def _make_step(self, network: Path, precision: str, length: int) -> None:
        ending = "" if length == self.pipeline.seq_len else f"_{length}"
        path = self.folder / f"step_{precision}{ending}.onnx"
        logger.info("export: a step in %s, for %d tokens", precision, length)
        limits = limits_of(self.pipeline.tokenizer, length, self.export)
        choice = onnx.choice_graph(Vocabulary.of(self.pipeline.tokenizer), limits, self.export.opset)
        onnx.export_step(network, choice, path)
        self.made.gates += [*gates.form(path), gates.tensorrt(path)]
        if precision == "float32":
            self.made.gates.append(same_texts(path, self.pipeline, self.sampling, limits))
        self.made.graphs[path.name] = {"kind": "step", "precision": precision, **asdict(limits)}


def limits_of(tokenizer: Tokenizer, length: int, export: ExportConfig) -> step.Limits:
    return step.Limits(length, min(export.candidates, tokenizer.vocab_size), min(export.most_opened, length))


def suited(sampling: SamplingConfig, limits: step.Limits) -> SamplingConfig:
    """The settings with what a step graph must know."""
    return SamplingConfig(**asdict(step.suited(tokens.Sampling(**sampling.model_dump()), limits)))


def same_texts(path: Path, pipeline: DiffusionPipeline, sampling: SamplingConfig, limits: step.Limits) -> Gate:
    """Set texts of a float32 step graph beside those that torch writes with the same seeds, in a few steps.

    Two logits that are as near as the rounding of two runtimes may swap, and then a text goes another way: most texts
    must be equal, not all. Raises: GraphError when most differ.
    """
    probe = _probe_settings(suited(sampling, limits), limits)
    run = step.on_onnxruntime(gates.open_session(path))
    equal = sum(_is_same(run, pipeline, probe, limits, *of) for of in PROBES)
    if 2 * equal < len(PROBES):
        raise GraphError(
            f"{path.name}: {len(PROBES) - equal} of {len(PROBES)} texts differ from those that torch writes with the "
            "same seeds; that is a fault of ddlm and not of your model"
        )
    return Gate("texts as torch writes them", path.name, gates.PASSED, f"{equal} of {len(PROBES)} equal")


def _probe_settings(sampling: SamplingConfig, limits: step.Limits) -> SamplingConfig:
    steps = max(PROBE_STEPS, -(-2 * limits.length // limits.most_opened))
    short = sampling.model_copy(update={"num_sampling_steps": steps})
    if step.objection(tokens.Sampling(**short.model_dump()), limits) is None:
        return short
    return suited(SamplingConfig(unmasking="confidence", num_sampling_steps=steps, ends=sampling.ends), limits)


def _is_same(
    run: step.Run, pipeline: DiffusionPipeline, sampling: SamplingConfig, limits: step.Limits, seed: int, is_exact: bool
) -> bool:
    tokenizer = pipeline.tokenizer
    given = list(tokenizer.story_prefix)[: limits.length - 1]
    start = given + [tokenizer.mask_id] * (limits.length - len(given))
    barred, end_id = (*tokenizer.unwritable_ids, *(tokenizer.stop_ids if is_exact else ())), tokenizer.end_id
    theirs = Draw(sampling, seed, torch.tensor([0]), end_id, barred)
    wanted, _ = sample(pipeline.model.at, torch.tensor([start]), tokenizer.mask_id, theirs)
    ours = tokens.Draw(tokens.Sampling(**sampling.model_dump()), seed, 0, end_id, tokenizer.mask_id, barred)
    *_, last = step.denoise(run, start, ours, limits)
    return bool(np.array_equal(last, wanted[0].numpy()))
