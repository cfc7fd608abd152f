"""The export stage: a trained model becomes a checked bundle."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddlm.artifacts import Workspace
from ddlm.config import UserError, installing
from ddlm.data.shards import read_rows
from ddlm.diffusion import SamplingConfig
from ddlm.export import ExportConfig, bundle, require
from ddlm.export.text import CALIBRATION_ROWS, Text
from ddlm.generation import DiffusionPipeline

if TYPE_CHECKING:  # they need the extra
    from ddlm.export.graphs import Made

EXTRA = ("onnx", "onnxruntime", "onnxscript")


def build(workspace: Workspace, *, seed: int, sampling: SamplingConfig, export: ExportConfig) -> None:
    """Write `bundle/` and `parity.json`."""
    require_extra()
    pipeline = DiffusionPipeline.from_pretrained(workspace.inputs["train"], precision="float32")
    shards, limit = workspace.inputs["shards"], max(export.check_batches, export.quality_rows)
    text = Text(read_rows(shards, "validation", limit=limit), read_rows(shards, "train", limit=CALIBRATION_ROWS).tokens)
    folder = workspace.output / "bundle"
    made = export_bundle(pipeline, folder, sampling=sampling, export=export, text=text, seed=seed)
    for name, found in {"parity": made.figures, "quality": made.quality}.items():
        (workspace.output / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        workspace.run.log(dict(_numbers(f"export/{name}", found)), step=0)


def _numbers(prefix: str, found: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    for of, figures in found.items():
        for name, value in figures.items():
            if isinstance(value, int | float):
                yield f"{prefix}/{of}/{name}", value


def export_bundle(
    pipeline: DiffusionPipeline,
    output: Path,
    *,
    sampling: SamplingConfig,
    export: ExportConfig,
    text: Text | None,
    seed: int,
) -> "Made":
    """Write the bundle of a pipeline on the CPU, all of it or nothing, over an older bundle if there is one.

    text: on which the graphs are compared with torch and quantised networks measured. None takes random tokens, makes
    no quantised network, and the manifest says so. Returns what was made and measured. Raises: UserError when `output`
    holds something else than a bundle, the extra `export` is missing or the settings are none for a bundle, GraphError
    when a graph is invalid or computes something else than torch.
    """
    require_extra()
    require(sampling, export)
    require_shorter(export, pipeline.seq_len)
    require_free(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        folder = Path(scratch) / "new"
        folder.mkdir()
        made = _make(pipeline, folder, Path(scratch), sampling, export, text, seed)
        if output.exists():
            output.rename(Path(scratch) / "old")
        folder.rename(output)
    return made


def _make(
    pipeline: DiffusionPipeline,
    folder: Path,
    scratch: Path,
    sampling: SamplingConfig,
    export: ExportConfig,
    text: Text | None,
    seed: int,
) -> "Made":
    """Everything that the bundle's folder holds."""
    from ddlm.export import gates, graphs  # late: they need the extra

    chosen = pipeline.suited(sampling)
    made = graphs.Workshop(pipeline, folder, scratch, export, chosen, text, seed).make()
    bundle.finish(
        folder, pipeline.tokenizer, seq_len=pipeline.seq_len, opset=export.opset, sampling=chosen,
        is_autoregressive=pipeline.is_autoregressive, graphs=made.graphs, gates=gates.as_json(made.gates),
        figures={"text": "random tokens" if text is None else "real", **made.figures},
        quality=made.quality, left_out=made.left_out,
    )  # fmt: skip
    return made


def require_extra() -> None:
    """Raises: UserError when the packages of the extra `export` are not all installed."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise UserError(f"export: {', '.join(missing)} not installed; run {installing('export')}")


def require_shorter(export: ExportConfig, seq_len: int) -> None:
    """Raises: UserError for a canvas that the model does not have."""
    longest = max(export.lengths, default=0)
    if longest > seq_len:
        raise UserError(f"export: a length of {longest}, but the model writes {seq_len} tokens; change export.lengths")


def require_free(output: Path) -> None:
    """Raises: UserError when the path holds something that is not a bundle."""
    if output.is_dir() and (not any(output.iterdir()) or bundle.is_bundle(output)):
        return
    if output.exists():
        raise UserError(f"{output}: exists and is not a bundle; choose another folder with -o, or empty it")
