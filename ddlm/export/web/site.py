"""A trained model becomes a page: network, tokenizer, settings, onnxruntime for browsers, and the page's own files."""

import gzip
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddlm.artifacts import write_atomically
from ddlm.config import UserError
from ddlm.diffusion import SamplingConfig
from ddlm.export import ExportConfig, require
from ddlm.export.runtime import drafts, unmasking
from ddlm.export.stage import require_extra
from ddlm.export.text import random_rows
from ddlm.export.web import vendor
from ddlm.generation import DiffusionPipeline, words
from ddlm.tokenizer import Tokenizer

FORMAT_VERSION = 1
PAGE = Path(__file__).with_name("page")
TYPEFACES = Path(__file__).parents[2] / "rendering" / "typefaces"
LICENCE = "typeface-OFL.txt"
TYPEFACE = {"typeface.otf": TYPEFACES / "SourceSerifPro-Regular.otf", LICENCE: TYPEFACES / "OFL.txt"}
"""The films' own, and its licence, which goes where it goes."""
SETTINGS, TOKENIZER, GRAPH = "data/settings.json", "data/tokenizer.json", "data/model.onnx.gz"
MAX_TRANSFER_BYTES = 12_000_000
"""What a first visit is meant to fetch at most, without WebGPU."""
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
PLAIN_BPE: dict[str, Any] = {
    "type": "BPE", "dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
    "byte_fallback": False, "ignore_merges": False,
}  # fmt: skip
"""What the page's tokenizer can read; `trim_offsets` and `fuse_unk` change no ids of ours."""


@dataclass(frozen=True)
class Site:
    """Bytes that a visit fetches from a server which packs text with gzip. webgpu: what its runtime adds."""

    network: int
    runtime: int
    page: int
    webgpu: int
    parity: Mapping[str, Any]

    @property
    def transfer(self) -> int:
        return self.network + self.runtime + self.page

    def __str__(self) -> str:
        parts = f"network {_mb(self.network)}, runtime {_mb(self.runtime)}, page and tokenizer {_mb(self.page)}"
        beyond = "" if self.transfer <= MAX_TRANSFER_BYTES else f"; meant to be at most {_mb(MAX_TRANSFER_BYTES)}"
        return f"a visit fetches {_mb(self.transfer)} ({parts}){beyond}; WebGPU, on demand, {_mb(self.webgpu)} more"


def export_site(
    pipeline: DiffusionPipeline,
    output: Path,
    *,
    title: str,
    sampling: SamplingConfig,
    export: ExportConfig,
    rows: NDArray[np.int32] | None,
    seed: int,
) -> Site:
    """Write the page of a pipeline on the CPU, all of it or nothing, over an older page if there is one.

    title: the model's name. rows: token rows of real text, on which the graph is compared with torch; None takes random
    ones. Raises: UserError when `output` holds something else than a page, the extra `export` or npm is missing, the
    tokenizer is of a kind that the page does not read, or the settings are none for it.
    """
    require_extra()
    require(sampling, export)
    require_readable(pipeline.tokenizer)
    require_free(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        folder = Path(scratch) / "new"
        site = _fill(folder, pipeline, title, sampling, export, rows, seed)
        if output.exists():
            output.rename(Path(scratch) / "old")
        folder.rename(output)
    return site


def _fill(
    folder: Path, pipeline: DiffusionPipeline, title: str, sampling: SamplingConfig, export: ExportConfig,
    rows: NDArray[np.int32] | None, seed: int,
) -> Site:  # fmt: skip
    (folder / "data").mkdir(parents=True)
    for name, path in own_files().items():
        (folder / name).write_bytes(path.read_bytes())
    unpacked = {f"vendor/{name}": size for name, size in vendor.place(folder / "vendor").items()}
    pipeline.tokenizer.backend.save(str(folder / TOKENIZER), pretty=False)
    graph, parity = _graph(pipeline, export, rows, seed)
    unpacked[GRAPH] = len(graph)
    (folder / GRAPH).write_bytes(gzip.compress(graph, 9, mtime=0))
    files = {
        name: {"bytes": size, "transferred_bytes": (folder / name).stat().st_size} for name, size in unpacked.items()
    }
    settings = settings_of(pipeline, sampling) | {"title": title, "parity": parity, "files": files}
    write_atomically(folder / SETTINGS, json.dumps(settings, ensure_ascii=False).encode())
    return measure(folder, parity)


def _graph(
    pipeline: DiffusionPipeline, export: ExportConfig, rows: NDArray[np.int32] | None, seed: int
) -> tuple[bytes, dict[str, Any]]:
    """The network with its matrices in int8, and what that costs: its logits against torch's."""
    from ddlm.export import gates, onnx  # late: they need the extra
    from ddlm.export.web.weights import shrink

    mask_id = pipeline.tokenizer.mask_id
    shape = (export.check_batches, pipeline.seq_len)
    text = random_rows(shape, mask_id, seed) if rows is None else rows[: export.check_batches]
    batches = gates.masked_batches(text, mask_id, seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole, small = Path(scratch) / "float32.onnx", Path(scratch) / "int8.onnx"
        onnx.export_logits(pipeline.model, pipeline.seq_len, whole, export.opset)
        shrink(whole, small)
        found = gates.compare(small, pipeline.model, batches, mask_id=mask_id)
        return small.read_bytes(), {"text": "random tokens" if rows is None else "real", **found}


def settings_of(pipeline: DiffusionPipeline, sampling: SamplingConfig) -> dict[str, Any]:
    """What the page has to know of the model; of the library's numbers each that it repeats."""
    tokenizer = pipeline.tokenizer
    generator = np.random.default_rng((0, 0)).bit_generator.state["state"]
    return {
        "format_version": FORMAT_VERSION,
        "seq_len": pipeline.seq_len,
        "vocab_size": tokenizer.vocab_size,
        "parameters": pipeline.model.num_parameters(),
        "kind": tokenizer.kind,
        "end_id": tokenizer.end_id,
        "mask_id": tokenizer.mask_id,
        "prefix": tokenizer.story_prefix,
        "suffix": tokenizer.story_suffix,
        "stop_ids": tokenizer.stop_ids,
        "forbidden": tokenizer.unwritable_ids,
        "is_autoregressive": pipeline.is_autoregressive,
        "sampling": pipeline.suited(sampling).model_dump(mode="json"),
        "parameters_of": unmasking.SAMPLING_PARAMETERS,
        "gap_lengths": drafts.GAP_LENGTHS,
        "gap_masks": drafts.GAP_MASKS,
        "words": words.for_pages(),
        "gap_generator": {name: str(value) for name, value in generator.items()},
    }


def own_files() -> dict[str, Path]:
    """What is the same on every page, by its name there."""
    return {path.name: path for path in PAGE.iterdir()} | TYPEFACE


def title_of(model: str) -> str:
    """The name that people know: an experiment's, whose folder holds the model's."""
    path = Path(model).absolute()  # not resolved: a finished run's folder is a link
    return path.parent.name if path.name == "model" else path.name


def measure(folder: Path, parity: Mapping[str, Any]) -> Site:
    """Packed files as they are, others as gzip packs them."""

    def transferred(names: list[str]) -> int:
        return sum(_transferred((folder / name).read_bytes()) for name in names)

    def runtime(files: tuple[str, ...]) -> int:
        return transferred([f"vendor/{name}" if name.endswith(".mjs") else f"vendor/{name}.gz" for name in files])

    own = [name for name in own_files() if name != LICENCE] + [SETTINGS, TOKENIZER]
    return Site(transferred([GRAPH]), runtime(vendor.WASM), transferred(own), runtime(vendor.WEBGPU), parity)


def _transferred(data: bytes) -> int:
    return len(data) if data.startswith(b"\x1f\x8b") else len(gzip.compress(data, 6))


def _mb(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def require_readable(tokenizer: Tokenizer) -> None:
    """Raises: UserError for a pretrained tokenizer that does what the page's own does not."""
    file = json.loads(tokenizer.backend.to_str())
    steps = file["pre_tokenizer"]
    strange = [name for name, value in PLAIN_BPE.items() if file["model"].get(name) != value]
    strange += ["normalizer"] if file["normalizer"] else []
    strange += ["pre_tokenizer"] if tokenizer.kind == "bpe" and not _includes(steps, BYTE_LEVEL) else []
    strange += ["added_tokens"] if not all(token["special"] for token in file["added_tokens"]) else []
    if strange:
        raise UserError(
            f"export --web: the page reads byte-level BPE as ddlm trains it, and this tokenizer.json has another "
            f"{', '.join(strange)}; export without --web"
        )


def _includes(given: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    return bool(given) and all((given or {}).get(name) == value for name, value in wanted.items())


def is_site(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / SETTINGS).read_bytes())["format_version"] == FORMAT_VERSION)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def require_free(output: Path) -> None:
    """Raises: UserError when the path holds something that is not a page."""
    if output.is_dir() and (not any(output.iterdir()) or is_site(output)):
        return
    if output.exists():
        raise UserError(f"{output}: exists and is not a page; choose another folder with -o, or empty it")
