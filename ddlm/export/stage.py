"""The export stage: a trained model becomes a checked bundle."""

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddlm.artifacts import Workspace
from ddlm.config import UserError
from ddlm.data.shards import read_rows
from ddlm.diffusion import SamplingConfig
from ddlm.export import ExportConfig, bundle
from ddlm.export.runtime.contents import MODEL
from ddlm.generation import DiffusionPipeline

EXTRA = ("onnx", "onnxruntime", "onnxscript")


def build(workspace: Workspace, *, seed: int, sampling: SamplingConfig, export: ExportConfig) -> None:
    """Write `bundle/` and `parity.json`."""
    require_extra()
    pipeline = DiffusionPipeline.from_pretrained(workspace.inputs["train"], precision="float32")
    rows = read_rows(workspace.inputs["shards"], "validation", limit=export.check_batches).tokens
    folder = workspace.output / "bundle"
    parity = export_bundle(pipeline, folder, sampling=sampling, export=export, rows=rows, seed=seed)
    (workspace.output / "parity.json").write_text(json.dumps(parity, indent=1) + "\n", encoding="utf-8")
    workspace.run.log({f"export/{name}": value for name, value in parity.items() if name != "text"}, step=0)


def export_bundle(
    pipeline: DiffusionPipeline,
    output: Path,
    *,
    sampling: SamplingConfig,
    export: ExportConfig,
    rows: NDArray[np.int32] | None,
    seed: int,
) -> dict[str, Any]:
    """Write the bundle of a pipeline on the CPU, all of it or nothing, over an older bundle if there is one.

    rows: token rows of real text, on which the graph is compared with torch; None takes random tokens, and the
    manifest says so. Returns the comparison. Raises: UserError when `output` holds something else than a bundle, the
    extra `export` is missing or the settings are none for a bundle, GraphError when the graph is invalid or computes
    something else than torch.
    """
    require_extra()
    require_whole_canvas(sampling)
    require_free(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        folder = Path(scratch) / "new"
        folder.mkdir()
        parity = _export_graph(pipeline, folder / MODEL, export, rows, seed)
        bundle.finish(
            folder, pipeline.tokenizer, seq_len=pipeline.seq_len, opset=export.opset,
            sampling=pipeline.suited(sampling), is_autoregressive=pipeline.is_autoregressive, parity=parity,
        )  # fmt: skip
        if output.exists():
            output.rename(Path(scratch) / "old")
        folder.rename(output)
    return parity


def _export_graph(
    pipeline: DiffusionPipeline, path: Path, export: ExportConfig, rows: NDArray[np.int32] | None, seed: int
) -> dict[str, Any]:
    from ddlm.export import onnx  # late: needs the extra

    mask_id = pipeline.tokenizer.mask_id
    shape = (export.check_batches, pipeline.seq_len)
    text = random_rows(shape, mask_id, seed) if rows is None else rows[: export.check_batches]
    onnx.export_logits(pipeline.model, pipeline.seq_len, path, export.opset)
    batches = onnx.masked_batches(text, mask_id, seed)
    numbers = onnx.parity(
        path, pipeline.model, batches, mask_id=mask_id, max_logit_difference=export.max_logit_difference
    )
    return {"text": "random tokens" if rows is None else "real", **numbers}


def random_rows(shape: tuple[int, int], vocab_size: int, seed: int) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, vocab_size, shape, dtype=np.int32)


def require_extra() -> None:
    """Raises: UserError when the packages of the extra `export` are not all installed."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise UserError(f'export: {", ".join(missing)} not installed; run pip install "ddlm[export]"')


def require_whole_canvas(sampling: SamplingConfig) -> None:
    """Raises: UserError for settings under which the library does not look at the whole canvas at each step."""
    if sampling.cache == "approximate":
        raise UserError(
            'export: sampling.cache is "approximate", but a bundle runs the whole network at each step and would write '
            'other texts; wanted "exact" or "off"; change sampling.cache'
        )


def require_free(output: Path) -> None:
    """Raises: UserError when the path holds something that is not a bundle."""
    if output.is_dir() and (not any(output.iterdir()) or bundle.is_bundle(output)):
        return
    if output.exists():
        raise UserError(f"{output}: exists and is not a bundle; choose another folder with -o, or empty it")
