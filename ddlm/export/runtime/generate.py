"""Write a story on this machine: `python generate.py "Once upon a time" --seed 3`.

The model does not write from left to right. The canvas starts as the prompt followed by masks; each step runs the
network once over all of it, chooses some masked positions and draws a token for each. After the last step none is left.

Needs numpy, onnxruntime and tokenizers (requirements.txt) and Python 3.10 or later. The same seed gives the same text
as the library that exported this folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

if __package__:  # inside the library, which ships this file
    from ddlm.export.runtime import sampler
else:
    try:
        import sampler  # type: ignore[import-not-found,no-redef]
    except (ImportError, SyntaxError) as error:
        print(f"generate.py: {error}; copy the bundle again or run pip install -r requirements.txt", file=sys.stderr)
        raise SystemExit(2) from None

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
DECIDE_THE_TEXT = (MODEL, TOKENIZER, "draws.py", "generate.py", "sampler.py")
"""The files that must be what the manifest says before anything is written."""
MASK_SIGN = "█"

Ids = sampler.Array


class InputError(Exception):
    """What has to be mended, in one line."""


@dataclass(frozen=True)
class Bundle:
    """The folder around this file, loaded."""

    network: sampler.Network
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    seq_len: int
    special: sampler.Special
    sampling: sampler.Sampling


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 2 for what the user can mend, in one line on stderr."""
    try:
        asked = command_line().parse_args(arguments)
        bundle = load_bundle(Path(__file__).resolve().parent, asked.threads)
        sampling = sampling_from(asked, bundle.sampling)
        made = generate(bundle, asked, sampling)
    except InputError as error:
        print(f"generate.py: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"generate.py: {error.name} is not installed; run pip install -r requirements.txt", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(json.dumps(made) if asked.json else "\n\n".join(sample["text"] for sample in made["samples"]))
    return 0


# The command line


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see generate.py --help")


def command_line() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="generate.py",
        description="Write text with the model in this folder.",
        epilog='example: python generate.py "One day" --samples 3 --seed 7 --temperature 0.9',
    )
    add = parser.add_argument
    add("prompt", nargs="?", default="", metavar="PROMPT", help="how the text begins")
    add("--steps", type=at_least(1), dest="num_sampling_steps", metavar="N", help="runs of the network for a text")
    add("--unmasking", metavar="NAME", help=f"which masks are opened first: {' or '.join(sampler.POLICIES)}")
    add("--temperature", type=temperature, metavar="F", help="0 takes the most likely token")
    add("--top-p", type=share, metavar="F", help="draw from the most likely tokens of this mass, in (0, 1]")
    add("--top-k", type=at_least(1), metavar="N", help="draw from the N most likely tokens")
    add("--seed", type=int, default=0, metavar="N", help="the same seed writes the same text (default 0)")
    add("--samples", type=at_least(1), default=1, metavar="N", help="how many texts (default 1)")
    add("--backend", choices=["ort"], default="ort", help="ort: onnxruntime on the CPU")
    add("--threads", type=at_least(1), metavar="N", help="processor threads (default: every core)")
    add("--json", action="store_true", help="one JSON document on stdout")
    add("--stream", action="store_true", help="every state of the canvas on stderr, a line a step")
    return parser


def at_least(minimum: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"got {value}, wanted at least {minimum}")
        return value

    return integer


def temperature(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text}, wanted 0 or more")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"got {text}, wanted more than 0 and at most 1")
    return value


def sampling_from(asked: argparse.Namespace, defaults: sampler.Sampling) -> sampler.Sampling:
    """The manifest's settings with what the command line gives. Raises: InputError for an unknown policy."""
    chosen = {}
    for field in fields(sampler.Sampling):
        given = getattr(asked, field.name)
        chosen[field.name] = getattr(defaults, field.name) if given is None else given
    if chosen["unmasking"] not in sampler.POLICIES:
        wanted = ", ".join(sampler.POLICIES)
        raise InputError(f"unknown unmasking {chosen['unmasking']!r}; wanted one of {wanted}")
    return sampler.Sampling(**chosen)


# Text in, text out


def generate(bundle: Bundle, asked: argparse.Namespace, sampling: sampler.Sampling) -> dict[str, Any]:
    """The samples and what they cost. Raises: InputError for a prompt that can't be read or leaves no room."""
    canvas = start_canvas(bundle, asked.prompt)
    calls = 0
    samples = []
    started = time.perf_counter()
    for number in range(asked.samples):
        filled = canvas
        for filled in sampler.denoise(bundle.network, canvas, bundle.special, sampling, (asked.seed, number)):
            calls += 1
            if asked.stream:
                print(on_one_line(bundle, filled), file=sys.stderr, flush=True)
        tokens = until_end(filled, bundle.special.end_id)
        samples.append({"text": bundle.decode(tokens), "tokens": tokens, "prompt": asked.prompt, "seed": asked.seed})
    seconds = time.perf_counter() - started
    written = asked.samples * int((canvas == bundle.special.mask_id).sum())
    return {
        "samples": samples,
        "num_sampling_steps": calls // asked.samples,
        "calls": calls,
        "seconds": seconds,
        "tokens_per_s": written / seconds,
        "unmasking": sampling.unmasking,
    }


def start_canvas(bundle: Bundle, prompt: str) -> Ids:
    """The prompt's tokens, then masks."""
    ids = bundle.encode(prompt)
    room = bundle.seq_len - len(ids)
    if room < 1:
        raise InputError(
            f"prompt: {len(ids)} tokens, but the model writes {bundle.seq_len} in all; "
            f"shorten it to at most {bundle.seq_len - 1} tokens"
        )
    return sampler.canvas(ids, bundle.seq_len, bundle.special)


def until_end(canvas: Ids, end_id: int) -> list[int]:
    """The ids before the first end token."""
    ids: list[int] = canvas.tolist()
    return ids[: ids.index(end_id)] if end_id in ids else ids


def on_one_line(bundle: Bundle, canvas: Ids) -> str:
    """An unfinished canvas; each masked token is one sign."""
    shown, run = "", []
    for token in canvas.tolist():
        if token != bundle.special.mask_id:
            run.append(token)
            continue
        shown += bundle.decode(run) + MASK_SIGN
        run = []
    return " ".join((shown + bundle.decode(run)).splitlines())


# The bundle, checked and loaded


def load_bundle(folder: Path, threads: int | None = None) -> Bundle:
    """threads: every core when None.

    Raises: InputError naming the first file that is missing or not what the manifest says.
    """
    manifest = read_manifest(folder)
    for name in DECIDE_THE_TEXT:
        check_file(folder / name, manifest["files"][name])
    encode, decode = load_tokenizer(folder / TOKENIZER)
    special = sampler.Special(end_id=manifest["end_id"], mask_id=manifest["mask_id"])
    network = load_network(folder / MODEL, threads)
    return Bundle(network, encode, decode, manifest["seq_len"], special, sampler.Sampling(**manifest["sampling"]))


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


def load_network(path: Path, threads: int | None) -> sampler.Network:
    import onnxruntime  # late: --help has no use for it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def network(ids: Ids) -> Ids:
        logits: Ids = session.run(["logits"], {"ids": ids.astype("int32")[None]})[0][0]
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


if __name__ == "__main__":
    raise SystemExit(main())
