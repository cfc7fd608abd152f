"""Write a story on this machine: `python generate.py "Once upon a time" --seed 3`.

The model does not write from left to right. The canvas starts as the prompt followed by masks; each step runs the
network once over all of it, chooses some masked positions and draws a token for each. After the last step none is left.

Needs numpy, onnxruntime and tokenizers (requirements.txt) and Python 3.10 or later. The same seed gives the same text
as the library that exported this folder.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

if __package__:  # read by the library that ships this file
    from ddlm import draws
else:
    try:
        import draws  # type: ignore[import-not-found,no-redef]
    except (ImportError, SyntaxError):
        sys.exit("generate.py: draws.py beside this file is missing or damaged; copy the bundle again")

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
DECIDE_THE_TEXT = ("draws.py", "generate.py", MODEL, TOKENIZER)
"""The files that are compared with the manifest before anything is written."""
MASK_SIGN = "█"
END_PENALTY = 1000.0
"""Larger than any difference of log-probabilities: an end token is opened after everything else."""

Array = np.ndarray[Any, Any]
Network = Callable[[Array], Array]
"""int32 ids [seq_len] to float32 logits [seq_len, vocab_size]."""


class InputError(Exception):
    """What has to be mended, in one line."""


@dataclass(frozen=True)
class Sampling:
    """How text is drawn. temperature 0 takes the most likely token; top_k None keeps all."""

    unmasking: str
    num_sampling_steps: int
    temperature: float
    top_k: int | None
    top_p: float


@dataclass(frozen=True)
class Bundle:
    """The folder around this file, loaded. `encode` raises InputError for a prompt that it can't read."""

    network: Network
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    seq_len: int
    end_id: int
    mask_id: int
    sampling: Sampling


@dataclass(frozen=True)
class Place:
    """Whose random draws: with the manifest's ids and a position this fixes every one of them."""

    seed: int
    sample: int
    step: int


# ---- the sampler: canvas in, canvases out


def denoise(bundle: Bundle, canvas: Array, sampling: Sampling, seed: int, sample: int) -> Iterator[Array]:
    """The canvas after each step, until no position is masked."""
    ids = canvas.copy()
    total = int((ids == bundle.mask_id).sum())
    num_steps = min(sampling.num_sampling_steps, total)
    for step in range(num_steps):
        place = Place(seed, sample, step)
        positions = np.flatnonzero(ids == bundle.mask_id)
        logits = bundle.network(ids)[positions]
        count = len(positions) - masked_after(total, step, num_steps)
        chosen = choose(POLICIES[sampling.unmasking](logits, positions, place, bundle.end_id), count)
        ids[positions[chosen]] = draw_tokens(logits[chosen], positions[chosen], place, sampling)
        yield ids.copy()


def masked_after(total: int, step: int, num_steps: int) -> int:
    """How many of `total` positions stay masked after a step, counted from 0."""
    return total * (num_steps - 1 - step) // num_steps


def choose(scores: Array, count: int) -> Array:
    """Indices of the `count` largest scores; ties go to the lower position."""
    return np.argsort(-scores, kind="stable")[:count]


def random_order(logits: Array, positions: Array, place: Place, end_id: int) -> Array:
    """A random order of opening."""
    word: Array = draws.position_words(place.seed, np.int64(place.sample), np.int64(place.step), positions)
    return word


def confidence(logits: Array, positions: Array, place: Place, end_id: int) -> Array:
    """The most certain position first; one that wants the end token waits until no other is left."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probability = -np.log(np.exp(shifted).sum(axis=-1))
    penalty = np.where(logits.argmax(axis=-1) == end_id, np.float32(END_PENALTY), np.float32(0))
    return log_probability - penalty  # type: ignore[no-any-return]


POLICIES = {"confidence": confidence, "random": random_order}


def draw_tokens(logits: Array, positions: Array, place: Place, sampling: Sampling) -> Array:
    """One token for each row by the Gumbel-max trick in float64, over what the filters leave."""
    if sampling.temperature == 0:
        return logits.argmax(axis=-1)
    scaled = keep_likely(logits.astype(np.float64) / sampling.temperature, sampling)
    uniform = token_uniforms(positions, place, vocab_size=logits.shape[-1])
    return (scaled - np.log(-np.log(uniform))).argmax(axis=-1)


def token_uniforms(positions: Array, place: Place, vocab_size: int) -> Array:
    """A number in (0, 1) for each position and token id."""
    blocks = np.arange(-(-vocab_size // draws.LANES), dtype=np.int64)[None]
    sample, step = np.int64(place.sample), np.int64(place.step)
    words = draws.words(place.seed, sample, step, positions[:, None], blocks)
    each = np.stack(np.broadcast_arrays(*words), axis=-1).reshape(len(positions), -1)
    uniform: Array = draws.to_unit(each[:, :vocab_size].astype(np.float64))
    return uniform


def keep_likely(scaled: Array, sampling: Sampling) -> Array:
    """Top-k, then the smallest set of most likely tokens that reaches top_p; the rest gets -inf. Ties: lower id."""
    if sampling.top_k is None and sampling.top_p == 1:
        return scaled
    order = np.argsort(-scaled, axis=-1, kind="stable")
    ordered = np.take_along_axis(scaled, order, axis=-1)
    if sampling.top_k is not None:
        ordered[:, sampling.top_k :] = -np.inf
    probability = np.exp(ordered - ordered[:, :1])
    probability /= probability.sum(axis=-1, keepdims=True)
    reached = probability.cumsum(axis=-1)
    ordered[:, 1:][reached[:, :-1] >= sampling.top_p] = -np.inf
    kept = np.empty_like(scaled)
    np.put_along_axis(kept, order, ordered, axis=-1)
    return kept


# ---- the bundle: files, checked and loaded


def load_bundle(folder: Path) -> Bundle:
    """Raises: InputError naming the first file that is missing or not what the manifest says."""
    manifest = read_manifest(folder)
    for name in DECIDE_THE_TEXT:
        check_file(folder / name, manifest["files"][name])
    encode, decode = load_tokenizer(folder / TOKENIZER)
    return Bundle(
        network=load_network(folder / MODEL),
        encode=encode,
        decode=decode,
        seq_len=manifest["seq_len"],
        end_id=manifest["end_id"],
        mask_id=manifest["mask_id"],
        sampling=Sampling(**manifest["sampling"]),
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        version, checksum = manifest["format_version"], manifest.pop("checksum")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is missing or damaged; copy the bundle again") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has format_version {version}, wanted {FORMAT_VERSION}; take its own generate.py")
    if checksum != checksum_of(manifest):
        raise InputError(f"{path} does not match its own checksum; copy the bundle again")
    return manifest


def checksum_of(manifest: dict[str, Any]) -> str:
    """sha256 of the manifest without its checksum, in canonical form."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_file(path: Path, entry: dict[str, Any]) -> None:
    if not path.is_file():
        raise InputError(f"{path} is missing; copy the bundle again")
    if path.stat().st_size != entry["bytes"]:
        size = path.stat().st_size
        raise InputError(f"{path} has {size} bytes, wanted {entry['bytes']}; copy the bundle again")
    if sha256_of(path) != entry["sha256"]:
        raise InputError(f"{path} has another sha256 than {MANIFEST} says; copy the bundle again")


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for chunk in iter(lambda: handle.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def load_network(path: Path) -> Network:
    import onnxruntime  # late: --help has no use for it

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def network(ids: Array) -> Array:
        logits: Array = session.run(["logits"], {"ids": ids.astype(np.int32)[None]})[0][0]
        return logits

    return network


def load_tokenizer(path: Path) -> tuple[Callable[[str], list[int]], Callable[[list[int]], str]]:
    import tokenizers  # late: --help has no use for it

    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True  # a special token's name in a prompt is plain text

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    return encode, decode


# ---- text in, text out


def start_canvas(bundle: Bundle, prompt: str) -> Array:
    """The prompt's tokens, then masks. Raises: InputError when the prompt leaves no room."""
    ids = bundle.encode(prompt)
    room = bundle.seq_len - len(ids)
    if room < 1:
        raise InputError(
            f"prompt: {len(ids)} tokens, but the model writes {bundle.seq_len} in all; "
            f"shorten it to at most {bundle.seq_len - 1} tokens"
        )
    return np.array(ids + [bundle.mask_id] * room, dtype=np.int64)


def until_end(bundle: Bundle, canvas: Array) -> list[int]:
    """The ids before the first end token."""
    ids: list[int] = canvas.tolist()
    return ids[: ids.index(bundle.end_id)] if bundle.end_id in ids else ids


def show(bundle: Bundle, canvas: Array) -> str:
    """An unfinished canvas on one line: each masked token is one sign."""
    pieces: list[str] = []
    run: list[int] = []
    for token in canvas.tolist():
        if token != bundle.mask_id:
            run.append(token)
            continue
        pieces += [bundle.decode(run), MASK_SIGN]
        run = []
    return "".join([*pieces, bundle.decode(run)]).replace("\n", " ")


def generate(bundle: Bundle, prompt: str, sampling: Sampling, seed: int, options: Options) -> dict[str, Any]:
    """The samples and what they cost, as one JSON document."""
    start = start_canvas(bundle, prompt)
    samples, calls = [], 0
    started = time.perf_counter()
    for sample in range(options.samples):
        canvas = start
        for canvas in denoise(bundle, start, sampling, seed, sample):
            calls += 1
            if options.stream:
                print(show(bundle, canvas), file=sys.stderr, flush=True)
        tokens = until_end(bundle, canvas)
        samples.append({"text": bundle.decode(tokens), "tokens": tokens, "prompt": prompt, "seed": seed})
    seconds = time.perf_counter() - started
    written = options.samples * int((start == bundle.mask_id).sum())
    return {
        "samples": samples,
        "num_sampling_steps": calls // options.samples,
        "calls": calls,
        "seconds": seconds,
        "tokens_per_s": written / seconds,
        "unmasking": sampling.unmasking,
    }
