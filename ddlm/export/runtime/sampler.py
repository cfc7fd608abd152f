"""The reverse process in numpy: a canvas with masks in, the canvas after each step out.

It repeats the library's sampler draw for draw, for one row, with the network always run over the whole canvas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np

if __package__:  # inside the library, which ships this file
    from ddlm import draws
    from ddlm.export.runtime.tokens import Array, Draw, Sampling, probability_of
    from ddlm.export.runtime.unmasking import POLICIES, REWRITING, Move, View, masked_share
else:
    import draws  # type: ignore[import-not-found,no-redef]
    from tokens import Array, Draw, Sampling, probability_of  # type: ignore[import-not-found,no-redef]
    from unmasking import (  # type: ignore[import-not-found,no-redef]
        POLICIES,
        REWRITING,
        Move,
        View,
        masked_share,
    )

Network = Callable[[Array], Array]
"""Token ids [seq_len] to float32 logits [seq_len, vocab_size]."""


def denoise(network: Network, start: Sequence[int], draw: Draw) -> Iterator[Array]:
    """The canvas after each step, until no position is masked."""
    state = Canvas(np.array(start, dtype=np.int64), draw)
    for window in windows(len(start), draw.sampling.block_size):
        state.enter(window)
        while state.is_unfinished():
            yield state.advance(network)


def windows(length: int, block_size: int | None) -> list[slice]:
    size = block_size or length
    return [slice(first, min(first + size, length)) for first in range(0, length, size)]


class Canvas:
    """The state of the loop.

    is_free: positions that the row fills. inside: those of the window that is being written. step, taken: the steps
    that the row took, and that it took in the window, of `steps`. may_end: whether the text's end is yet to be drawn.
    """

    def __init__(self, start: Array, draw: Draw) -> None:
        self.ids, self.draw, self.step = start, draw, 0
        self.is_free = start == draw.mask_id
        self.rewrites = draw.sampling.unmasking in REWRITING
        is_found = draw.sampling.ends != "drawn" and draw.end_id not in draw.forbidden
        self.may_be_over = is_found and not self.rewrites

    def enter(self, window: slice) -> None:
        self.inside = np.zeros_like(self.is_free)
        self.inside[window] = self.is_free[window]
        self.steps, self.taken = num_steps(self.draw.sampling, int(self.inside.sum()), int(self.is_free.sum())), 0
        self.may_end = self.draw.sampling.ends == "drawn" and self.draw.end_id not in self.draw.forbidden

    def is_unfinished(self) -> bool:
        return self.taken < self.steps if self.rewrites else bool(self._is_masked(self.inside).any())

    def advance(self, network: Network) -> Array:
        view = self._view(cache(partial(network, self.ids)))
        if self.may_end:
            self._end_text(view)
            view = self._view(view.look)
        self.ids = written(view, POLICIES[self.draw.sampling.unmasking](view))
        if self.may_be_over:
            self._close_text()
        self.step += 1
        self.taken += 1
        return self.ids

    def _is_masked(self, among: Array) -> Array:
        masked: Array = among & (self.ids == self.draw.mask_id)
        return masked

    def _view(self, look: Callable[[], Array]) -> View:
        draw = self.draw
        if draw.sampling.ends == "drawn" and not self.may_end:
            draw = replace(draw, forbidden=(*draw.forbidden, draw.end_id))
        is_masked = self._is_masked(self.inside)
        remaining, total = int(self._is_masked(self.is_free).sum()), int(self.is_free.sum())
        return View(
            look, self.ids, self.inside, is_masked, draw, self.step, self.steps, self.taken,
            count=to_open(int(is_masked.sum()), self.steps, self.taken, draw.sampling.grid),
            written=1 - remaining / max(1, total),
        )  # fmt: skip

    def _close_text(self) -> None:
        """Behind an end token before the first mask the text is over: end tokens fill the row, unasked for."""
        is_masked = self._is_masked(self.is_free)
        is_end = (self.ids == self.draw.end_id) & self.is_free & (np.cumsum(is_masked) == 0)
        if is_end.any():
            self.ids = np.where(is_masked, self.draw.end_id, self.ids)
            self.is_free = self.is_free & ~is_masked

    def _end_text(self, view: View) -> None:
        """Draw where the text ends, put end tokens from there on, and allow no others in the window."""
        tail = ended(view) & self._is_masked(self.is_free)
        self.ids = np.where(tail, self.draw.end_id, self.ids)
        self.is_free, self.inside, self.may_end = self.is_free & ~tail, self.inside & ~tail, False
        if not self.rewrites:
            self.steps = min(self.steps, int(self.inside.sum()))


def num_steps(sampling: Sampling, masks: int, total: int) -> int:
    """How many steps a window takes at most to write so many positions, out of so many of the canvas."""
    if sampling.unmasking == "first_hitting":
        return masks
    share = -(-sampling.num_sampling_steps * masks // max(total, 1))
    return share if sampling.unmasking in REWRITING else min(share, masks)


def to_open(left: int, steps: int, taken: int, grid: str) -> int:
    """How many of `left` masks to open at a step when `taken` of `steps` were taken: one at least, all at the last."""
    if taken + 1 >= steps:
        return left
    before, after = (masked_share(grid, (taken + ahead) / steps) for ahead in (0, 1))
    return max(1, left - math.floor(left * after / before + 1e-9)) if left else 0


def written(view: View, move: Move) -> Array:
    """The ids after the move."""
    ids = view.ids.copy()
    if move.remasked is not None:
        ids[move.remasked] = view.draw.mask_id
    if move.opened.any():
        ids[move.opened] = view.tokens_at(move.opened)
    return ids


def ended(view: View) -> Array:
    """Which positions lie behind the drawn end of the text, in the window and after it.

    Behind the last position that, with one uniform number, is not over; a text that begins here is not empty.
    """
    is_asked, place = view.is_masked, np.arange(len(view.ids))
    over = probability_of(view.logits_at(is_asked), view.draw.end_id).astype(np.float64)
    _, high, low, _ = view.draw.row_words(view.step)
    uniform = draws.pair_to_unit(high, low) if view.draw.sampling.temperature else 0.5
    least = over.min() if is_asked[0] else 0.0
    is_open = over <= least + uniform * (1 - least)
    last_open = place[is_asked][is_open].max(initial=-1)
    behind: Array = (place > last_open) & (last_open < place[is_asked][-1])
    return behind
