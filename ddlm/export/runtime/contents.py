"""The bundle's folder, loaded: network, tokenizer and settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

if __package__:  # inside the library, which ships this file
    from ddlm.export.runtime.integrity import MODEL, TOKENIZER, check_program, checked, read_manifest
    from ddlm.export.runtime.options import InputError
    from ddlm.export.runtime.sampler import Network
    from ddlm.export.runtime.tokens import Array, Sampling
else:
    from integrity import (  # type: ignore[import-not-found,no-redef]
        MODEL,
        TOKENIZER,
        check_program,
        checked,
        read_manifest,
    )
    from options import InputError  # type: ignore[import-not-found,no-redef]
    from sampler import Network  # type: ignore[import-not-found,no-redef]
    from tokens import Array, Sampling  # type: ignore[import-not-found,no-redef]


@dataclass(frozen=True)
class Bundle:
    """The folder, loaded.

    tokenizer_kind: bpe or characters. prefix, suffix: ids before and behind a whole story that are not shown: the tags
    of a chat. stop_ids: each ends a text. forbidden: ids that no text may contain. is_autoregressive: whether the
    network sees only what stands before a position. network: of `model.onnx`, loaded when it is first called. graphs:
    of each graph's file its kind (logits, or step: `runtime.step`), its precision, and what else the manifest says.
    """

    network: Network
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    seq_len: int
    end_id: int
    mask_id: int
    tokenizer_kind: str
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    stop_ids: tuple[int, ...]
    forbidden: tuple[int, ...]
    sampling: Sampling
    is_autoregressive: bool
    graphs: dict[str, dict[str, Any]]
    folder: Path
    threads: int | None


def load_bundle(folder: Path, threads: int | None = None) -> Bundle:
    """threads: every core when None. Raises: InputError for a folder that is not what its manifest says."""
    check_program(folder)
    manifest = read_manifest(folder)
    encode, decode = load_tokenizer(folder / TOKENIZER)
    return Bundle(
        network_of(folder, MODEL, threads), encode, decode,
        manifest["seq_len"], manifest["end_id"], manifest["mask_id"],
        manifest["tokenizer_kind"], tuple(manifest["prefix"]), tuple(manifest["suffix"]),
        tuple(manifest["stop_ids"]), tuple(manifest["forbidden"]), Sampling(**manifest["sampling"]),
        manifest["is_autoregressive"], manifest["graphs"], folder, threads,
    )  # fmt: skip


def network_of(folder: Path, graph: str, threads: int | None) -> Network:
    """A graph that gives logits; its file is checked and loaded at the first call."""
    session = cache(partial(open_session, folder, graph, threads))

    def network(ids: Array) -> Array:
        logits: Array = session().run(["logits"], {"ids": ids.astype("int32")[None]})[0][0]
        return logits

    return network


def open_session(folder: Path, graph: str, threads: int | None) -> Any:
    """Raises: InputError when the file is missing or not what the manifest says."""
    os.environ.setdefault(
        "ORT_DISABLE_TELEMETRY", "1"
    )  # from 1.31 on it reports to its maker unless told before import
    import onnxruntime  # late: --help has no use for it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    return onnxruntime.InferenceSession(str(checked(folder, graph)), options, providers=["CPUExecutionProvider"])


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
