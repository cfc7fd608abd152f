"""The bundle: a folder that writes text on a device that has neither torch nor ddlm."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ddlm import draws
from ddlm.artifacts import sha256_file, write_atomically
from ddlm.diffusion import SamplingConfig
from ddlm.export import device
from ddlm.export.runtime import (
    backends,
    connection,
    contents,
    desk,
    drafts,
    generate,
    gpu,
    integrity,
    measure,
    options,
    sampler,
    serve,
    step,
    terminal,
    tokens,
    trt,
    unmasking,
    writing,
)
from ddlm.tokenizer import Tokenizer

MODULES = (
    backends, connection, contents, desk, drafts, draws, generate, gpu, integrity, measure, options, sampler, serve,
    step, terminal, tokens, trt, unmasking, writing,
)  # fmt: skip
PROGRAM = {Path(str(module.__file__)).name: Path(str(module.__file__)) for module in MODULES}
"""What runs on the device, shipped as it is."""
DEVICE = {path.name: path for path in Path(str(device.__file__)).parent.iterdir() if path.suffix not in ("", ".py")}
"""Shell and text beside it. The README is a template."""
README = "README.md"
MAKERS = ("ddlm", "torch", "onnx", "onnxscript", "onnxruntime")
"""Packages whose versions the manifest names."""


def finish(
    folder: Path,
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    opset: int,
    sampling: SamplingConfig,
    is_autoregressive: bool,
    graphs: Mapping[str, Mapping[str, Any]],
    gates: Sequence[Mapping[str, str]],
    figures: Mapping[str, Any],
    quality: Mapping[str, Any],
    left_out: Mapping[str, str],
) -> None:
    """Put everything else beside the graphs; the manifest, last, makes it a bundle. Holds no times and no hosts."""
    sizes = {"seq_len": seq_len, "vocab_size": tokenizer.vocab_size, "opset": opset}
    for name, source in (PROGRAM | DEVICE).items():
        (folder / name).write_bytes(source.read_bytes())
    (folder / README).write_text(DEVICE[README].read_text(encoding="utf-8").format(**sizes), encoding="utf-8")
    tokenizer.backend.save(str(folder / integrity.TOKENIZER))
    manifest: dict[str, Any] = {
        "format_version": integrity.FORMAT_VERSION,
        **sizes,
        "end_id": tokenizer.end_id,
        "mask_id": tokenizer.mask_id,
        "tokenizer_kind": tokenizer.kind,
        "prefix": tokenizer.story_prefix,
        "suffix": tokenizer.story_suffix,
        "stop_ids": tokenizer.stop_ids,
        "forbidden": tokenizer.unwritable_ids,
        "sampling": sampling.model_dump(mode="json"),
        "is_autoregressive": is_autoregressive,
        "graphs": dict(graphs),
        "gates": list(gates),
        "parity": dict(figures),
        "quality": dict(quality),
        "left_out": dict(left_out),
        "made_with": {name: version(name) for name in MAKERS},
        "files": {path.name: describe(path) for path in sorted(folder.iterdir())},
    }
    manifest["checksum"] = integrity.checksum_of(manifest)
    write_atomically(folder / integrity.MANIFEST, json.dumps(manifest, indent=1).encode())


def describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def is_bundle(folder: Path) -> bool:
    try:
        integrity.read_manifest(folder)
    except options.InputError:
        return False
    return True
