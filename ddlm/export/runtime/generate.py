"""Write a story on this machine: `python generate.py "Once upon a time" --seed 3`.

The model does not write from left to right. The canvas starts as the prompt followed by masks; each step runs the
network once over all of it, chooses some masked positions and draws a token for each. After the last step none is left.

Needs numpy, onnxruntime and tokenizers (requirements.txt) and Python 3.10 or later. The same seed gives the same text
as the library that exported this folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NoReturn

if __package__:  # inside the library, which ships this file
    from ddlm.export.runtime.contents import Bundle, InputError, load_bundle
    from ddlm.export.runtime.sampler import denoise
    from ddlm.export.runtime.tokens import Array, Draw, Sampling
    from ddlm.export.runtime.unmasking import POLICIES, SAMPLING_PARAMETERS
else:
    try:
        from contents import Bundle, InputError, load_bundle  # type: ignore[import-not-found,no-redef]
        from sampler import denoise  # type: ignore[import-not-found,no-redef]
        from tokens import Array, Draw, Sampling  # type: ignore[import-not-found,no-redef]
        from unmasking import POLICIES, SAMPLING_PARAMETERS  # type: ignore[import-not-found,no-redef]
    except (ImportError, SyntaxError) as error:
        print(f"generate.py: {error}; copy the bundle again or run pip install -r requirements.txt", file=sys.stderr)
        raise SystemExit(2) from None

MASK_SIGN = "█"


@dataclass(frozen=True)
class Draft:
    """A text before it is written.

    given: the ids that stand before the masks, hidden ones included. masks: how many ids are written at most.
    is_exact: write all of them, and no end before.
    """

    given: list[int]
    masks: int
    is_exact: bool

    def canvas(self, bundle: Bundle) -> list[int]:
        behind = bundle.seq_len - len(self.given) - self.masks
        return self.given + [bundle.mask_id] * self.masks + [bundle.end_id] * behind

    def forbidden(self, bundle: Bundle) -> tuple[int, ...]:
        return bundle.forbidden + (bundle.stop_ids if self.is_exact else ())

    def written(self, bundle: Bundle, canvas: list[int]) -> list[int]:
        """The ids behind the given ones, up to where the text ends."""
        ids = canvas[len(self.given) : len(self.given) + self.masks]
        ends = [place for place, token in enumerate(ids) if token in bundle.stop_ids]
        return ids[: ends[0]] if ends else ids


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 2 for what the user can mend, in one line on stderr."""
    try:
        asked = command_line().parse_args(arguments)
        bundle = load_bundle(Path(__file__).resolve().parent, asked.threads)
        require_order(asked.unmasking, bundle)
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
    add("--steps", type=at_least(1), dest="num_sampling_steps", metavar="N", help="steps for a text, at most")
    add("--unmasking", metavar="NAME", help=f"which masks are opened first: {', '.join(POLICIES)}")
    add("--temperature", type=temperature, metavar="F", help="0 takes the most likely token")
    add("--top-p", type=share, metavar="F", help="draw from the most likely tokens of this mass, in (0, 1]")
    add("--top-k", type=at_least(1), metavar="N", help="draw from the N most likely tokens")
    add("--length", type=at_least(1), metavar="N", help="write exactly N tokens after the prompt")
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


def require_order(unmasking: str | None, bundle: Bundle) -> None:
    """Raises: InputError for a policy where the network can only write from left to right."""
    own = bundle.sampling.unmasking
    if bundle.is_autoregressive and unmasking not in (None, own):
        raise InputError(f"unmasking {unmasking}: this model writes {own} only; leave it out")


def sampling_from(asked: argparse.Namespace, defaults: Sampling) -> Sampling:
    """The manifest's settings with what the command line gives, less what belongs to another policy.

    Raises: InputError for an unknown policy.
    """
    names = [field.name for field in fields(Sampling) if getattr(asked, field.name, None) is not None]
    given: dict[str, Any] = {name: getattr(asked, name) for name in names}
    chosen = replace(defaults, **given)
    if chosen.unmasking not in POLICIES:
        raise InputError(f"unknown unmasking {chosen.unmasking!r}; wanted one of {', '.join(POLICIES)}")
    foreign: dict[str, Any] = {
        name: None for name, owners in SAMPLING_PARAMETERS.items() if chosen.unmasking not in owners
    }
    return replace(chosen, **foreign)


# Text in, text out


def generate(bundle: Bundle, asked: argparse.Namespace, sampling: Sampling) -> dict[str, Any]:
    """The samples and what they cost. Raises: InputError for a prompt that can't be read or leaves no room."""
    draft = draft_of(bundle, asked.prompt, asked.length)
    calls = 0

    def counted(ids: Array) -> Array:
        nonlocal calls
        calls += 1
        return bundle.network(ids)

    counting = replace(bundle, network=counted)
    started = time.perf_counter()
    texts = [write(counting, draft, asked, number, sampling) for number in range(asked.samples)]
    seconds = time.perf_counter() - started
    return {
        "samples": [described(bundle, draft, asked, number, ids) for number, (ids, _) in enumerate(texts)],
        "num_sampling_steps": max(steps for _, steps in texts),
        "calls": calls,
        "seconds": seconds,
        "tokens_per_s": sum(len(ids) for ids, _ in texts) / seconds,
        "unmasking": sampling.unmasking,
        "precision": "float32",
    }


def write(
    bundle: Bundle, draft: Draft, asked: argparse.Namespace, number: int, sampling: Sampling
) -> tuple[list[int], int]:
    """The ids of a sample behind the given ones, and how many steps they took."""
    draw = Draw(sampling, asked.seed, number, bundle.end_id, bundle.mask_id, draft.forbidden(bundle))
    canvas, steps = draft.canvas(bundle), 0
    for state in denoise(bundle.network, canvas, draw):
        canvas, steps = state.tolist(), steps + 1
        if asked.stream:
            print(on_one_line(bundle, canvas[len(bundle.prefix) :]), file=sys.stderr, flush=True)
    return draft.written(bundle, canvas), steps


def draft_of(bundle: Bundle, prompt: str, length: int | None) -> Draft:
    """Raises: InputError for a prompt that can't be read, or one that leaves less room than the length."""
    ids = bundle.encode(prompt)
    given = [*bundle.prefix, *ids]
    room = bundle.seq_len - len(given)
    if room < 1:
        raise InputError(
            f"prompt: {len(ids)} tokens, but the model writes {bundle.seq_len} in all; "
            f"shorten it to at most {bundle.seq_len - len(bundle.prefix) - 1} tokens"
        )
    if length is not None and length > room:
        raise InputError(f"--length {length}: wanted 1 to {room} tokens after this prompt; change one of them")
    return Draft(given, length or room, is_exact=length is not None)


def described(
    bundle: Bundle, draft: Draft, asked: argparse.Namespace, number: int, written: list[int]
) -> dict[str, Any]:
    tokens = draft.given[len(bundle.prefix) :] + written
    text = bundle.decode(tokens)
    shown = text.rstrip("\n") if bundle.prefix else text  # a chat's end tag stands on its own line
    return {"text": shown, "tokens": tokens, "prompt": asked.prompt, "seed": asked.seed, "number": number}


def on_one_line(bundle: Bundle, canvas: list[int]) -> str:
    """An unfinished canvas; each masked token is one sign."""
    shown = ""
    run: list[int] = []
    for token in canvas:
        if token != bundle.mask_id:
            run.append(token)
            continue
        shown += bundle.decode(run) + MASK_SIGN
        run = []
    return " ".join((shown + bundle.decode(run)).splitlines())


if __name__ == "__main__":
    raise SystemExit(main())
