"""Unmasking policies: which positions a step opens, and which it masks again. The library's `unmasking`, for one row.

There each policy has its source. One that never looks at a logit chooses before the network runs, and a step that
opens nothing does not run it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

if __package__:  # inside the library, which ships this file
    from ddlm import draws
    from ddlm.export.runtime import tokens
    from ddlm.export.runtime.tokens import Array, Draw
else:
    import draws  # type: ignore[import-not-found,no-redef]
    import tokens  # type: ignore[import-not-found,no-redef]
    from tokens import Array, Draw  # type: ignore[import-not-found,no-redef]

END_PENALTY = 1000.0
"""Larger than any difference of scores: where ends come last, an end token is opened after everything else."""
LOOP_ON, LOOP_OFF, LOOP_ALPHA = 0.55, 0.05, 0.9
"""ReMDM's loop: between these times nothing but exchange, at this share of open tokens."""
SAMPLING_PARAMETERS = {
    "threshold": ("threshold",),
    "entropy_bound": ("entropy_bound",),
    "most_per_step": ("threshold", "entropy_bound"),
    "remask_share": ("remdm_cap", "remdm_rescale", "remdm_loop"),
}
"""The policies that a parameter belongs to."""


@dataclass(frozen=True)
class Move:
    """What a step does: bool[l], positions to open and positions to mask again."""

    opened: Array
    remasked: Array | None = None


@dataclass(frozen=True, eq=False)
class View:
    """What a policy may look at before a step.

    look: the logits of the whole canvas; the first call runs the network. ids: the canvas. is_free: positions of the
    window that were masked at first. is_masked: those still masked. step: how many steps the row has taken.
    steps, taken: how many the window may take, and took. count: how many positions the grid would open.
    written: the share of the whole canvas that is written.
    """

    look: Callable[[], Array]
    ids: Array
    is_free: Array
    is_masked: Array
    draw: Draw
    step: int
    steps: int
    taken: int
    count: int
    written: float

    @property
    def left(self) -> int:
        return int(self.is_masked.sum())

    def logits_at(self, wanted: Array) -> Array:
        """Rows of logits, in which ids that can't come out have no weight."""
        logits: Array = self.look()[wanted]
        self.draw.forbid(logits, np.flatnonzero(wanted))
        return logits

    def tokens_at(self, wanted: Array) -> Array:
        """A token for each wanted position: asked again, the same."""
        sampling, logits = self.draw.sampling, self.logits_at(wanted)
        if sampling.repetition_penalty > 1:
            is_used = np.isin(np.arange(logits.shape[1]), self.ids)
            logits = tokens.penalise(logits, is_used, sampling.repetition_penalty)
        uniform = self.draw.uniform(self.step, np.flatnonzero(wanted))
        return tokens.draw_tokens(logits, uniform, tokens.temperature_at(sampling, self.written), sampling)

    def score(self, measure: Callable[[Array], Array]) -> Array:
        """A measure of what the network says at each masked position."""
        logits = self.logits_at(self.is_masked)
        values = measure(logits)
        if self.draw.sampling.ends == "last":
            values = values - END_PENALTY * tokens.wants(logits, self.draw.end_id)
        table = np.full(self.ids.shape, -np.inf)
        table[self.is_masked] = values
        return table

    @cached_property
    def words(self) -> list[Array]:
        """The four words of every position."""
        return self.draw.words(self.step, np.arange(len(self.ids), dtype=np.int64))

    @property
    def order(self) -> Array:
        """A uniform number for each position, to order them by."""
        numbers: Array = draws.to_unit(self.words[0])
        return numbers

    @property
    def chance(self) -> Array:
        """Another one."""
        numbers: Array = draws.to_unit(self.words[3])
        return numbers

    def best(self, score: Array, count: int) -> Move:
        return Move(choose(score, self.is_masked, count))

    def at_least_at_pace(self, score: Array, count: int) -> Move:
        """Open what a rule allows, at most `most_per_step`, but no fewer than the grid would: steps must suffice."""
        most = self.draw.sampling.most_per_step
        return self.best(score, max(count if most is None else min(count, most), self.count))


def masked_share(grid: str, progress: float) -> float:
    """What is masked after this share of the steps."""
    return math.cos(math.pi / 2 * progress) if grid == "cosine" and progress < 1 else 1 - progress


def choose(score: Array, is_masked: Array, count: int) -> Array:
    """The `count` masked positions with the largest scores; ties go to the lower position."""
    order = np.argsort(-np.where(is_masked, score, -np.inf), kind="stable")
    chosen = np.zeros_like(is_masked)
    chosen[order[:count]] = True
    both: Array = chosen & is_masked
    return both


def random(view: View) -> Move:
    """A random order at the grid's pace."""
    return view.best(view.order, view.count)


def first_hitting(view: View) -> Move:
    """One token a step in a random order, whatever the number of steps."""
    return view.best(view.order, 1)


def left_to_right(view: View) -> Move:
    """In reading order at the grid's pace."""
    return view.best(-np.arange(len(view.ids)), view.count)


def confidence(view: View) -> Move:
    """The most certain position first, by its best token's probability."""
    return view.best(view.score(tokens.log_odds), view.count)


def margin(view: View) -> Move:
    """First where the best token is furthest ahead of the next."""
    return view.best(view.score(tokens.margin), view.count)


def entropy(view: View) -> Move:
    """The lowest entropy first."""
    return view.best(view.score(certainty), view.count)


def threshold(view: View) -> Move:
    """All positions whose best token has the probability `threshold`."""
    score, least = view.score(tokens.log_odds), view.draw.sampling.threshold or 0.9
    return view.at_least_at_pace(score, int((score >= math.log(least / (1 - least))).sum()))


def entropy_bound(view: View) -> Move:
    """The most positions, lowest entropies first, whose entropies but for the largest sum to at most the bound."""
    bound = 0.5 if view.draw.sampling.entropy_bound is None else view.draw.sampling.entropy_bound
    score = view.score(certainty)
    ordered = np.maximum(np.sort(-score[view.is_masked]), 0)
    before = ordered.cumsum() - ordered
    return view.at_least_at_pace(score, int((before <= bound).sum()))


def certainty(logits: Array) -> Array:
    return -tokens.entropy(logits)


def remdm_cap(view: View) -> Move:
    """Each step opens some and masks a share of what is written again, at most `remask_share`."""
    before, after = open_shares(view)
    return exchange(view, before, after, min(most_remasked(before, after), remask_share(view, 0.02)))


def remdm_rescale(view: View) -> Move:
    """The same with the largest share that keeps the process, times `remask_share`."""
    before, after = open_shares(view)
    return exchange(view, before, after, most_remasked(before, after) * remask_share(view, 0.1))


def remdm_loop(view: View) -> Move:
    """The same with a long middle in which as much is masked again as is written."""
    before, after = map(looped, open_shares(view))
    share = min(most_remasked(before, after), remask_share(view, 0.02)) if before == after == LOOP_ALPHA else 0.0
    return exchange(view, before, after, share)


def open_shares(view: View) -> list[float]:
    """The open share before and after the step."""
    moments = (min(1.0, (view.taken + ahead) / view.steps) for ahead in (0, 1))
    return [1 - masked_share(view.draw.sampling.grid, moment) for moment in moments]


def looped(share: float) -> float:
    """The open share at time 1 - share of ReMDM's loop."""
    t = 1 - share
    if t > LOOP_ON:
        return LOOP_ALPHA * (1 - t) / (1 - LOOP_ON)
    return 1 - (1 - LOOP_ALPHA) * t / LOOP_OFF if t < LOOP_OFF else LOOP_ALPHA


def most_remasked(before: float, after: float) -> float:
    return min(1.0, (1 - after) / before) if before else 1.0


def remask_share(view: View, default: float) -> float:
    share = view.draw.sampling.remask_share
    return default if share is None else share


def exchange(view: View, before: float, after: float, share: float) -> Move:
    """Open and mask again with the probabilities under which a share `after` is open afterwards."""
    to_open = (after - (1 - share) * before) / (1 - before)
    remasked = view.is_free & ~view.is_masked & (view.chance < share)
    return Move(view.is_masked & (view.order < to_open), remasked)


def revise(view: View) -> Move:
    """Draw every position anew, also written ones, and keep the likeliest draws, as many as the grid says."""
    likelihood = np.zeros(view.ids.shape, dtype=np.float32)
    likelihood[view.is_free] = tokens.probability(view.logits_at(view.is_free), view.tokens_at(view.is_free))
    kept = choose(likelihood, view.is_free, int(view.is_free.sum()) - view.left + view.count)
    return Move(kept, view.is_free & ~kept)


POLICIES: dict[str, Callable[[View], Move]] = {
    "random": random,
    "first_hitting": first_hitting,
    "left_to_right": left_to_right,
    "confidence": confidence,
    "margin": margin,
    "entropy": entropy,
    "threshold": threshold,
    "entropy_bound": entropy_bound,
    "remdm_cap": remdm_cap,
    "remdm_rescale": remdm_rescale,
    "remdm_loop": remdm_loop,
    "revise": revise,
}

REWRITING = {"remdm_cap", "remdm_rescale", "remdm_loop", "revise"}
"""Policies that may mask again what is written: they take all their steps."""
