"""An order becomes texts: prompts and gaps in, text out, with what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

if __package__:  # inside the library, which ships this file
    from ddlm.export.runtime import drafts
    from ddlm.export.runtime.backends import Backend
    from ddlm.export.runtime.contents import Bundle
    from ddlm.export.runtime.drafts import Draft
    from ddlm.export.runtime.options import OPTIONS, InputError
    from ddlm.export.runtime.tokens import Sampling
    from ddlm.export.runtime.unmasking import POLICIES, SAMPLING_PARAMETERS
else:
    import drafts  # type: ignore[import-not-found,no-redef]
    from backends import Backend  # type: ignore[import-not-found,no-redef]
    from contents import Bundle  # type: ignore[import-not-found,no-redef]
    from drafts import Draft  # type: ignore[import-not-found,no-redef]
    from options import OPTIONS, InputError  # type: ignore[import-not-found,no-redef]
    from tokens import Sampling  # type: ignore[import-not-found,no-redef]
    from unmasking import POLICIES, SAMPLING_PARAMETERS  # type: ignore[import-not-found,no-redef]


@dataclass(frozen=True)
class Order:
    """What is asked for. infill: the prompt is a text with gaps. number: of the first sample."""

    prompt: str = ""
    samples: int = 1
    seed: int = 0
    length: int | None = None
    infill: bool = False


@dataclass(frozen=True)
class State:
    """A text after a step, as people see it: each masked token is one █."""

    sample: int
    step: int
    masked: int
    text: str


@dataclass(frozen=True)
class Written:
    """ids: of the whole text, hidden ones included. steps: those that writing it took."""

    draft: Draft
    ids: list[int]
    steps: int

    def tokens(self, bundle: Bundle) -> int:
        """How many were written."""
        return len(self.ids) - sum(token != bundle.mask_id for token in self.draft.given)


Observer = Callable[[State], None]


def sampling_from(asked: dict[str, Any], bundle: Bundle) -> Sampling:
    """The manifest's settings with the OPTIONS that are asked for (not None), less what belongs to another policy.

    Raises: InputError for an unknown policy, or one where the network can only write from left to right.
    """
    given = {name: asked[name] for name in OPTIONS if asked.get(name) is not None}
    own = bundle.sampling.unmasking
    if bundle.is_autoregressive and given.get("unmasking", own) != own:
        raise InputError(f"unmasking {given['unmasking']}: this model writes {own} only; leave it out")
    chosen = replace(bundle.sampling, **given)
    if chosen.unmasking not in POLICIES:
        raise InputError(f"unknown unmasking {chosen.unmasking!r}; wanted one of {', '.join(POLICIES)}")
    foreign: dict[str, Any] = {
        name: None for name, owners in SAMPLING_PARAMETERS.items() if chosen.unmasking not in owners
    }
    return replace(chosen, **foreign)


def generate(
    bundle: Bundle, backend: Backend, order: Order, sampling: Sampling, observer: Observer | None = None
) -> dict[str, Any]:
    """The samples and what they cost. observer: is shown every state of every text.

    Raises: InputError for a prompt that can't be read or leaves no room, or settings that the graph can't draw with.
    """
    sampling = backend.settled(sampling)
    tried = drafts_of(bundle, order)
    started, calls = time.perf_counter(), backend.run.calls
    fillings = [
        [write(bundle, backend, draft, number, order.seed, sampling, observer) for draft in tried]
        for number in range(order.samples)
    ]
    seconds, every = time.perf_counter() - started, [made for of_sample in fillings for made in of_sample]
    return {
        "samples": [
            described(bundle, least_surprising(bundle, made), number, order.seed)
            for number, made in enumerate(fillings)
        ],
        "num_sampling_steps": max(made.steps for made in every),
        "calls": backend.run.calls - calls,
        "seconds": seconds,
        "tokens_per_s": sum(made.tokens(bundle) for made in every) / seconds,
        "unmasking": sampling.unmasking,
        "precision": backend.precision,
    }


def drafts_of(bundle: Bundle, order: Order) -> list[Draft]:
    """One, or those that are tried. Raises: InputError."""
    if not order.infill:
        return [drafts.prompted(bundle, order.prompt, order.length)]
    if order.length is not None:
        raise InputError("infill: takes no length; the gaps say how long they are: ___[5]")
    return drafts.gapped(bundle, order.prompt)


def write(
    bundle: Bundle, backend: Backend, draft: Draft, number: int, seed: int, sampling: Sampling,
    observer: Observer | None = None,
) -> Written:  # fmt: skip
    """One text. One that is longer than the canvas is written in windows that slide."""
    text, left, steps = draft.given, draft.to_write, 0
    while True:
        window = drafts.window_of(bundle, draft, text, left)
        draw = draft.draw(bundle, sampling, seed, number, first_position=len(window.before))
        canvas = window.canvas
        for state in backend.denoise(window.canvas, draw):
            canvas, steps = state.tolist(), steps + 1
            if observer:
                shown = draft.unfinished(bundle, window.before + canvas)
                observer(State(number, steps, canvas.count(bundle.mask_id), shown))
        text = drafts.finished(bundle, draft, text, window, canvas)
        left = left and left - window.to_write
        if not left:
            return Written(draft, text, steps)


def least_surprising(bundle: Bundle, fillings: list[Written]) -> Written:
    """Of fillings of several lengths the one that the network itself finds most likely a token."""
    if len(fillings) == 1:
        return fillings[0]
    nats = [drafts.surprise(bundle.network, bundle, made.draft, made.ids) for made in fillings]
    return fillings[nats.index(min(nats))]


def described(bundle: Bundle, made: Written, number: int, seed: int) -> dict[str, Any]:
    draft = made.draft
    text, tokens = draft.text(bundle, made.ids), draft.shown(made.ids)
    ended = draft.is_closed or draft.to_write is not None or len(made.ids) < bundle.seq_len
    return {"text": text, "tokens": tokens, "prompt": draft.prompt, "seed": seed, "number": number, "ended": ended}
