"""The quantised networks of a bundle: made, measured against float32, and kept where they lose little."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ddlm.export import ExportConfig, quality, quantize
from ddlm.export.quality import Ground, Network

INT8_DYNAMIC, INT8_STATIC, INT4 = "int8_dynamic", "int8_static", "int4"
FOR_TENSORRT = {INT8_STATIC: "int8"}
"""Networks that become step graphs, and the precision that those are called by."""
FOR_THE_PROCESSOR = {INT8_DYNAMIC: "int8"}
"""Networks that stay logits graphs. int4 is neither: an experiment, which is measured and never shipped, since int4
weights need opset 21, and TensorRT 10.3 reads up to 20."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variants:
    """figures: what was measured, by network, float32 first. kept: the graphs that passed. left_out: of the others, why
    they did not."""

    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: dict[str, Path] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def make(
    networks: Mapping[str, Path], scratch: Path, calibration: Sequence[NDArray[np.int32]], ground: Ground,
    export: ExportConfig,
) -> Variants:  # fmt: skip
    """Quantise what `export.quantised` names and measure it beside everything else.

    networks: the logits graphs that there are, float32 and maybe float16. scratch: where the quantised ones go.
    calibration: batches of masked rows of real text, others than the ones that are measured on.
    """
    made: dict[str, Path] = {name: scratch / f"{name}.onnx" for name in export.quantised}
    for name, path in made.items():
        logger.info("export: the network in %s", name)
        MAKERS[name](networks, path, calibration, ground.tokenizer.vocab_size)
    paths = {**networks, **made}
    logger.info("export: measuring %s", ", ".join(paths))
    opened = {name: network_of(path) for name, path in paths.items()}
    figures = quality.measure(opened.pop("float32"), opened, ground)
    for name, path in paths.items():
        figures[name] = {"bytes": path.stat().st_size, **figures[name]}
    return Variants(figures, *_sorted_out(made, figures, export))


def _sorted_out(
    made: Mapping[str, Path], figures: Mapping[str, Mapping[str, Any]], export: ExportConfig
) -> tuple[dict[str, Path], dict[str, str]]:
    """What is kept, and why the rest is not."""
    reasons = {name: _objection(name, figures[name], export.max_bits_per_byte_loss) for name in made}
    for name, reason in reasons.items():
        if reason:
            logger.warning("export: %s is left out: %s", name, reason)
    kept = {name: path for name, path in made.items() if not reasons[name]}
    return kept, {name: reason for name, reason in reasons.items() if reason}


def _objection(name: str, figures: Mapping[str, Any], most: float) -> str:
    if name == INT4:
        return "an experiment: TensorRT 10.3 reads no int4 weights from ONNX"
    if quality.loses_too_much(figures, most):
        worst = figures["bits_per_byte_change_interval"][1]
        return f"it may lose {worst:.4f} bits per byte, wanted at most export.max_bits_per_byte_loss = {most:g}"
    return ""


def network_of(graph: Path | bytes, threads: int | None = None) -> Network:
    """A logits graph on the processor; threads: every core when None. They sleep between runs: spinning, they would
    keep torch from working."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = graph if isinstance(graph, bytes) else str(graph)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def network(ids: NDArray[np.int32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run(["logits"], {"ids": ids[None]})[0][0]
        return logits

    return network


# How each is made, from the networks that there are

Maker = Callable[[Mapping[str, Path], Path, Sequence[NDArray[np.int32]], int], None]


def _int8_dynamic(networks: Mapping[str, Path], path: Path, _: Sequence[NDArray[np.int32]], vocab_size: int) -> None:
    quantize.dynamic(networks["float32"], path, vocab_size=vocab_size)


def _int8_static(
    networks: Mapping[str, Path], path: Path, calibration: Sequence[NDArray[np.int32]], vocab_size: int
) -> None:
    feeds = [{"ids": row[None]} for batch in calibration for row in batch]
    ranges = quantize.calibrate(networks["float32"], feeds, vocab_size=vocab_size)
    quantize.static(_half(networks), path, ranges, vocab_size=vocab_size)


def _int4(networks: Mapping[str, Path], path: Path, _: Sequence[NDArray[np.int32]], vocab_size: int) -> None:
    quantize.int4(_half(networks), path, vocab_size=vocab_size)


def _half(networks: Mapping[str, Path]) -> Path:
    """What stays between the integers is float16 where the model can be."""
    return networks.get("float16", networks["float32"])


MAKERS: dict[str, Maker] = {INT8_DYNAMIC: _int8_dynamic, INT8_STATIC: _int8_static, INT4: _int4}
