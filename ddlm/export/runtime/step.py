"""A step of denoising as one graph, and the loop around it: what a GPU runs, so that only ids cross the bus.

The graph is one step of a static canvas: the network, how sure it is of every masked position, which of them are
opened, a token for each. `inputs_of` is its signature; whatever varies from step to step or text to text is an input:

    ids          the canvas, masks in it; the output `written` is the canvas after the step, and the next step's `ids`
    places       1 or 0, three rows: positions that the text may fill in the end · those of the block that is being
                 written · those whose token must begin a word
    order        a rank for each position, the lowest first, for policies that choose without looking at logits
    uniform      a number in (0, 1) for each position, with which its token is drawn: `ddlm.draws`, rounded
    pace         how many positions are opened when n are masked in the block, for n = 0 … length. A table, since a step
                 that draws the text's end knows n only then
    temperature  at which tokens are drawn when n positions of the whole text are masked
    settings     scalars, named by SETTINGS

Nothing here needs more than numpy; a backend is a `Run`. The onnxruntime one is `on_onnxruntime`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

if __package__:  # inside the library, which ships this file
    from ddlm import draws
    from ddlm.export.runtime.sampler import Canvas, num_steps, to_open, windows
    from ddlm.export.runtime.tokens import Array, Draw, Sampling, temperature_at
else:
    import draws  # type: ignore[import-not-found,no-redef]
    from sampler import Canvas, num_steps, to_open, windows  # type: ignore[import-not-found,no-redef]
    from tokens import Array, Draw, Sampling, temperature_at  # type: ignore[import-not-found,no-redef]

OUTPUT = "written"
CANDIDATES = 256
"""Tokens that a draw may choose from, at most: a graph sorts no whole vocabulary."""
MOST_OPENED = 64
"""Positions that a step may open, at most: it draws a token for so many."""
SETTINGS = ("policy", "limit", "most", "top_k", "top_p", "end", "bars_end", "bars_stops", "ends_last", "closes")
"""What stands where in `settings`.

policy: CONFIDENCE, MARGIN or ORDER. limit: the odds against a position's best token up to which a rule opens it, -1
without a rule; most: positions that the rule may open. top_k: 1 … the graph's candidates. top_p: 2 keeps all.
end: the number that draws the text's end in this step, 2 in steps that do not. bars_end, bars_stops: whether the end
token, or every token that ends a text, can't be drawn. ends_last: whether an end token is opened after all others.
closes: whether an end token before the first mask ends the text.
"""
CONFIDENCE, MARGIN, ORDER = range(3)
POLICIES = {
    "confidence": CONFIDENCE, "threshold": CONFIDENCE, "margin": MARGIN,
    "random": ORDER, "first_hitting": ORDER, "left_to_right": ORDER,
}  # fmt: skip
"""The unmasking policies that the graph knows, and what each looks at."""
NEVER, ALL = 2.0, 2.0

Run = Callable[[Mapping[str, Array]], Array]
"""One run of the graph: from the inputs that changed, by name, to the canvas after the step, int32 [1, length].

An input that is not given keeps its value. `ids` not given are those that the last run wrote: they may stay on the
device. The first run after a new text is given everything.
"""


@dataclass(frozen=True)
class Limits:
    """What a graph can do: the manifest's entry says it. length: of its canvas."""

    length: int
    candidates: int = CANDIDATES
    most_opened: int = MOST_OPENED


def limits_of(entry: Mapping[str, Any]) -> Limits:
    """entry: what the manifest says of the graph."""
    return Limits(entry["length"], entry["candidates"], entry["most_opened"])


def inputs_of(length: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The graph's inputs for a canvas of so many positions: numpy's dtype and the shape."""
    return {
        "ids": ("int32", (1, length)),
        "places": ("int32", (3, length)),
        "order": ("float32", (1, length)),
        "uniform": ("float32", (1, length)),
        "pace": ("int32", (length + 1,)),
        "temperature": ("float32", (length + 1,)),
        "settings": ("float32", (len(SETTINGS),)),
    }


def on_onnxruntime(session: Any) -> Run:
    """session: an onnxruntime.InferenceSession of the step graph."""
    held: dict[str, Array] = {}

    def run(changed: Mapping[str, Array]) -> Array:
        held.update(changed)
        written: Array = session.run([OUTPUT], held)[0]
        held["ids"] = written
        return written

    return run


def denoise(run: Run, start: Sequence[int], draw: Draw, limits: Limits) -> Iterator[Array]:
    """The canvas [length] after each step, until no position is masked: `sampler.denoise` with the graph.

    The settings must be some that `objection` has nothing against.
    """
    assert objection(draw.sampling, limits) is None
    state = Journey(np.array(start, dtype=np.int64), draw, limits)
    for window in windows(len(start), draw.sampling.block_size):
        state.enter(window)
        while state.is_unfinished():
            yield state.advance_by(run)


def objection(sampling: Sampling, limits: Limits) -> str | None:
    """Why the graph can't draw text with these settings, in a line; None when it can."""
    if sampling.unmasking not in POLICIES:
        return f"unmasking {sampling.unmasking}: the step graph knows {', '.join(POLICIES)}"
    if sampling.temperature and (sampling.top_k or limits.candidates + 1) > limits.candidates:
        return f"top_k {sampling.top_k or 'none'}: the step graph knows the {limits.candidates} likeliest tokens"
    if sampling.repetition_penalty > 1:
        return f"repetition_penalty {sampling.repetition_penalty:g}: the step graph has none; wanted 1"
    most = most_in_a_step(sampling, limits.length)
    if most > limits.most_opened:
        return f"{most} tokens in one step: the step graph writes {limits.most_opened} at most; take more steps"
    if sampling.unmasking == "threshold" and (sampling.most_per_step or limits.length) > limits.most_opened:
        return f"most_per_step {sampling.most_per_step or 'none'}: the step graph writes {limits.most_opened} at most"
    return None


def suited(sampling: Sampling, limits: Limits) -> Sampling:
    """The settings with the graph's own limits where they are open: of tokens to draw from and to write at once."""
    top_k = sampling.top_k or limits.candidates
    most = sampling.most_per_step or limits.most_opened
    return replace(
        sampling, top_k=top_k, most_per_step=most if sampling.unmasking == "threshold" else sampling.most_per_step
    )


def most_in_a_step(sampling: Sampling, length: int) -> int:
    """How many positions the grid opens in one step of an empty canvas: with a prompt it is no more."""
    left = min(sampling.block_size or length, length)
    steps, most = num_steps(sampling, left, length), 0
    for taken in range(steps if sampling.unmasking != "first_hitting" else 0):
        count = to_open(left, steps, taken, sampling.grid)
        left, most = left - count, max(most, count)
    return most


class Journey(Canvas):
    """The canvas and the host's account of it. changed: inputs that the next run has to be given."""

    def __init__(self, start: Array, draw: Draw, limits: Limits) -> None:
        super().__init__(start, draw)
        self.limits, self.policy = limits, POLICIES[draw.sampling.unmasking]
        self.positions = np.arange(len(start), dtype=np.int64)
        self.changed: dict[str, Array] = {"ids": start.astype(np.int32)[None]}

    def enter(self, window: slice) -> None:
        super().enter(window)
        self.changed["places"] = self._places()

    def advance_by(self, run: Run) -> Array:
        before, draws_end = self._is_masked(self.is_free), self.may_end
        run_inputs = {**self.changed, **self._inputs()}
        self.changed = {}
        self.ids = run(run_inputs)[0].astype(np.int64)
        if draws_end:  # no other token of this step can be an end
            self._account_for_end(before & (self.ids == self.draw.end_id))
        self.step += 1
        self.taken += 1
        return self.ids

    def _account_for_end(self, tail: Array) -> None:
        self.is_free, self.inside, self.may_end = self.is_free & ~tail, self.inside & ~tail, False
        self.steps = min(self.steps, int(self.inside.sum()))

    def _inputs(self) -> dict[str, Array]:
        """What differs between any two steps."""
        uniform = self.draw.uniform(self.step, self.positions)
        made = {"uniform": uniform[None], "pace": self._pace(), "settings": self._settings()}
        if self.policy == ORDER and (self.step == 0 or self.draw.sampling.unmasking != "left_to_right"):
            made["order"] = self._ranks()[None]
        elif self.step == 0:
            made["order"] = np.zeros((1, len(self.ids)))
        if self.step == 0 or self.draw.sampling.final_temperature is not None:
            made["temperature"] = self._temperatures()
        kinds = inputs_of(len(self.ids))
        return {name: value.astype(kinds[name][0]) for name, value in made.items()}

    def _places(self) -> Array:
        return np.stack([self.is_free, self.inside, np.isin(self.positions, self.draw.starts_word)]).astype(np.int32)

    def _ranks(self) -> Array:
        if self.draw.sampling.unmasking == "left_to_right":
            return self.positions
        order = draws.to_unit(self.draw.words(self.step, self.positions)[0])
        ranks = np.empty_like(self.positions)
        ranks[np.argsort(-order, kind="stable")] = self.positions
        return ranks

    def _pace(self) -> Array:
        """Where the text's end is drawn in this step, what is left afterwards is known to the graph alone."""
        left = int(self._is_masked(self.inside).sum())
        known = (
            [self._count(left)] * len(self.ids) if not self.may_end else map(self._count, range(1, len(self.ids) + 1))
        )
        return np.array([0, *known])

    def _count(self, left: int) -> int:
        if self.draw.sampling.unmasking == "first_hitting":
            return 1
        return to_open(left, self.steps, self.taken, self.draw.sampling.grid)

    def _temperatures(self) -> Array:
        """The graph counts what is masked, and the share that is written follows: the written part is known here."""
        masked, total = int(self._is_masked(self.is_free).sum()), int(self.is_free.sum())
        left = np.arange(len(self.ids) + 1)
        shares = 1 - left / np.maximum(1, total - masked + left)
        return np.array([temperature_at(self.draw.sampling, float(share)) for share in shares])

    def _settings(self) -> Array:
        sampling, is_exact = self.draw.sampling, self.draw.end_id in self.draw.forbidden
        chance = sampling.threshold or 0.9
        values = {
            "policy": self.policy,
            "limit": (1 - chance) / chance if sampling.unmasking == "threshold" else -1,
            "most": sampling.most_per_step or len(self.ids),
            "top_k": sampling.top_k or self.limits.candidates,
            "top_p": sampling.top_p if sampling.top_p < 1 else ALL,
            "end": self._end_number() if self.may_end else NEVER,
            "bars_end": sampling.ends == "drawn" or is_exact,
            "bars_stops": is_exact,
            "ends_last": sampling.ends == "last",
            "closes": self.may_be_over,
        }
        return np.array([values[name] for name in SETTINGS], dtype=np.float64)

    def _end_number(self) -> float:
        _, high, low, _ = self.draw.row_words(self.step)
        return float(draws.pair_to_unit(high, low)) if self.draw.sampling.temperature else 0.5
