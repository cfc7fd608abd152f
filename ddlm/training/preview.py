"""Samples, guesses and a small film of the weights while they train, kept with the run."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from ddlm.artifacts import RunLog
from ddlm.data.shards import read_manifest, read_rows
from ddlm.diffusion import SamplingConfig
from ddlm.generation import MASK_SIGN, DiffusionPipeline
from ddlm.model.folder import ModelFolder
from ddlm.model.transformer import Denoiser
from ddlm.rendering import RenderingConfig
from ddlm.rendering.files import render_file
from ddlm.tokenizer import Tokenizer
from ddlm.training.distributed import Ranks
from ddlm.training.state import TrainState

SAMPLES, GUESSES, MASK_RATE = 4, 4, 0.5
SAMPLING = SamplingConfig(num_sampling_steps=32)
PICTURE = RenderingConfig(width=480, height=320)


class Preview:
    """Called by all ranks, shown by the first."""

    def __init__(self, scratch: Path, shards: Path, tokenizer: Tokenizer, seed: int, ranks: Ranks, run: RunLog) -> None:
        self._folder, self._shards, self._tokenizer = scratch / "previews", shards, tokenizer
        self._seed, self._ranks, self._run = seed, ranks, run

    def __call__(self, state: TrainState) -> None:
        """Write `step-….jsonl` and `step-….gif` and hand them to the run."""
        weights = state.weights()
        if not self._ranks.is_first:
            return
        pipeline = self._pipeline(state.model, {name: value.cpu() for name, value in weights.items()})
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"step-{state.step:08d}.jsonl"
        lines = [json.dumps(line, ensure_ascii=False) for line in self.samples(pipeline) + self.guesses(pipeline)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        film = path.with_suffix(".gif")
        render_file(pipeline.frames("", sampling=SAMPLING, seed=self._seed), film, PICTURE)
        for file in (path, film):
            self._run.upload(file, "previews")

    def _pipeline(self, trained: Denoiser, weights: dict[str, torch.Tensor]) -> DiffusionPipeline:
        model = trained.fresh()
        model.load_state_dict(weights)
        layout = read_manifest(self._shards)["layout"]
        config = ModelFolder.of(model, end_id=self._tokenizer.end_id, objective={}, layout=layout)
        return DiffusionPipeline(model.eval(), self._tokenizer, config)

    def samples(self, pipeline: DiffusionPipeline) -> list[dict[str, Any]]:
        made = pipeline.generate(num_samples=SAMPLES, sampling=SAMPLING, seed=self._seed)
        return [{"sample": sample.text} for sample in made.samples]

    @torch.no_grad()
    def guesses(self, pipeline: DiffusionPipeline) -> list[dict[str, Any]]:
        """Validation rows half masked, the most likely token at every mask, and the row itself."""
        rows = torch.from_numpy(read_rows(self._shards, "validation", limit=GUESSES).tokens).long()
        noise = torch.rand(rows.shape, generator=torch.Generator().manual_seed(self._seed))
        is_masked = noise < MASK_RATE
        x_t = rows.masked_fill(is_masked, self._tokenizer.mask_id)
        guess = torch.where(is_masked, pipeline.model(x_t).argmax(-1), rows)
        texts = [[self._text(ids) for ids in values] for values in (x_t, guess, rows)]
        names = ("noisy_input", "prediction", "target")
        return [dict(zip(names, row, strict=True)) for row in zip(*texts, strict=True)]

    def _text(self, ids: torch.Tensor) -> str:
        """Masks are shown as one sign each."""
        mask_id = self._tokenizer.mask_id
        runs = groupby(ids.tolist(), lambda token: token == mask_id)
        return "".join(MASK_SIGN * len(list(run)) if masked else self._tokenizer.decode(run) for masked, run in runs)
