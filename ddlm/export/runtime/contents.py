"""The bundle's folder: each file compared with the manifest, then network, tokenizer and settings loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__:  # inside the library, which ships this file
    from ddlm.export.runtime.sampler import Network
    from ddlm.export.runtime.tokens import Array, Sampling
else:
    from sampler import Network  # type: ignore[import-not-found,no-redef]
    from tokens import Array, Sampling  # type: ignore[import-not-found,no-redef]

FORMAT_VERSION = 2
"""2: the settings of twelve policies, and which ids end a text, which it can't have and which stand before it."""
MANIFEST = "manifest.json"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
DECIDE_THE_TEXT = (
    MODEL, TOKENIZER, "contents.py", "draws.py", "generate.py", "sampler.py", "tokens.py", "unmasking.py",
)  # fmt: skip
"""The files that must be what the manifest says before anything is written."""


class InputError(Exception):
    """What has to be mended, in one line."""


@dataclass(frozen=True)
class Bundle:
    """The folder, loaded.

    prefix: ids before the prompt that are not shown: the tags of a chat. stop_ids: each ends a text. forbidden: ids
    that no text may contain. is_autoregressive: whether the network sees only what stands before a position.
    """

    network: Network
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    seq_len: int
    end_id: int
    mask_id: int
    prefix: tuple[int, ...]
    stop_ids: tuple[int, ...]
    forbidden: tuple[int, ...]
    sampling: Sampling
    is_autoregressive: bool


def load_bundle(folder: Path, threads: int | None = None) -> Bundle:
    """threads: every core when None.

    Raises: InputError naming the first file that is missing or not what the manifest says.
    """
    manifest = read_manifest(folder)
    for name in DECIDE_THE_TEXT:
        check_file(folder / name, manifest["files"][name])
    encode, decode = load_tokenizer(folder / TOKENIZER)
    network, sampling = load_network(folder / MODEL, threads), Sampling(**manifest["sampling"])
    return Bundle(
        network, encode, decode, manifest["seq_len"], manifest["end_id"], manifest["mask_id"],
        tuple(manifest["prefix"]), tuple(manifest["stop_ids"]), tuple(manifest["forbidden"]), sampling,
        manifest.get("is_autoregressive", False),
    )  # fmt: skip


def read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        version, checksum = manifest["format_version"], manifest["checksum"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is missing or damaged; copy the bundle again") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has format_version {version}, wanted {FORMAT_VERSION}; use its own generate.py")
    if checksum != checksum_of(manifest):
        raise InputError(f"{path} does not match its own checksum; copy the bundle again")
    return manifest


def checksum_of(manifest: dict[str, Any]) -> str:
    """sha256 over everything else in the manifest, in canonical form."""
    body = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_file(path: Path, entry: dict[str, Any]) -> None:
    if not path.is_file():
        raise InputError(f"{path} is missing; copy the bundle again")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise InputError(f"{path} has {size} bytes, wanted {entry['bytes']}; copy the bundle again")
    if sha256_of(path) != entry["sha256"]:
        raise InputError(f"{path} has another sha256 than {MANIFEST} says; copy the bundle again")


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for chunk in iter(lambda: handle.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def load_network(path: Path, threads: int | None) -> Network:
    import onnxruntime  # late: --help has no use for it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def network(ids: Array) -> Array:
        logits: Array = session.run(["logits"], {"ids": ids.astype("int32")[None]})[0][0]
        return logits

    return network


def load_tokenizer(path: Path) -> tuple[Callable[[str], list[int]], Callable[[list[int]], str]]:
    """Text to ids, and back without special tokens. Encoding raises InputError for characters it never saw."""
    import tokenizers  # late: --help has no use for it

    backend = tokenizers.Tokenizer.from_file(str(path))
    backend.encode_special_tokens = True  # a special token's name in a prompt is plain text

    def ids_of(text: str) -> list[int]:
        return list(backend.encode(text, add_special_tokens=False).ids)

    def encode(text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"prompt {text[:40]!r} is not valid UTF-8; give it in UTF-8") from None
        unknown = "".join(sorted(character for character in set(text) if not ids_of(character)))
        if unknown:
            raise InputError(f"prompt: the tokenizer never saw the characters {unknown!r}; leave them out")
        return ids_of(text)

    def decode(ids: list[int]) -> str:
        return str(backend.decode(ids, skip_special_tokens=True))

    return encode, decode
