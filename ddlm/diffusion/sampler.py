"""The reverse process: one loop that opens masked positions, some at each step, until none is left."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddlm import draws
from ddlm.diffusion import SamplingConfig, tokens
from ddlm.diffusion.tokens import Draw
from ddlm.diffusion.unmasking import POLICIES, REWRITING, masked_share
from ddlm.diffusion.view import Denoiser, Move, Sight, View
from ddlm.transfer import sent

Sure = Callable[[], Float[Tensor, "b l"]]


@dataclass(frozen=True, eq=False)
class Step:
    """What an observer sees. step 0 is the start.

    num_sampling_steps: how many there will be at most. opened: the positions that this step filled.
    calls: how often the network has been run so far. sure: makes `confidence`, which not everyone asks for.
    """

    step: int
    num_sampling_steps: int
    ids: Int[Tensor, "b l"]
    opened: Bool[Tensor, "b l"]
    calls: int
    sure: Sure = field(repr=False)

    @cached_property
    def confidence(self) -> Float[Tensor, "b l"]:
        """The probability, at temperature 1, of the tokens that this step drew; 0 elsewhere."""
        return self.sure()


Observer = Callable[[Step], None]
BlockDenoiser = Callable[[Int[Tensor, "b l"], slice], Denoiser]
"""From the canvas before a block, and the block, to its denoiser."""
TokensOf = Callable[[View, Sight], Int[Tensor, " n"]]
"""What is written at the positions in sight: drawn, unless someone knows better."""


def sample(
    denoiser: Denoiser, ids: Int[Tensor, "b l"], mask_id: int, draw: Draw, observer: Observer | None = None
) -> tuple[Int[Tensor, "b l"], int]:
    """Fill every mask in `ids`. Returns the ids and how often the network was called."""
    last = None
    for last in denoise(denoiser, ids, mask_id, draw):
        if observer:
            observer(last)
    assert last
    return last.ids, last.calls


@torch.inference_mode()
def denoise(
    denoiser: Denoiser,
    ids: Int[Tensor, "b l"],
    mask_id: int,
    draw: Draw,
    *,
    is_free: Bool[Tensor, "b l"] | None = None,
    denoiser_of: BlockDenoiser | None = None,
    tokens_of: TokensOf = View.tokens_at,
) -> Iterator[Step]:
    """The canvas at first and after every step.

    is_free: positions that may be filled, where they are masks; all when None. denoiser_of: asked for the denoiser of
    each block, and then rows that are done stay in the batch, so that it may keep what it knows of each.
    """
    canvas = Canvas(ids, mask_id, draw, is_free, tokens_of)
    yield canvas.start()
    for window in canvas.windows():
        if canvas.enter(window):
            network = denoiser_of(canvas.ids.clone(), window) if denoiser_of else denoiser
            while rows := canvas.unfinished():
                yield canvas.advance(network, list(range(len(ids))) if denoiser_of else rows)


def most_steps(is_free: Bool[Tensor, "b l"], config: SamplingConfig) -> int:
    """How many steps a canvas takes at most whose free positions are these."""
    total = is_free.sum(1).tolist()
    each = [steps_of(is_free[:, block].sum(1).tolist(), total, config) for block in blocks(is_free.shape[1], config)]
    return sum(max(steps) for steps in each)


def blocks(length: int, config: SamplingConfig) -> list[slice]:
    """The stretches of a canvas that are written one after the other."""
    size = config.block_size or length
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def steps_of(masks: Sequence[int], total: Sequence[int], config: SamplingConfig) -> list[int]:
    """How many steps each row takes at most to write so many of all its positions."""
    if config.unmasking == "first_hitting":
        return list(masks)
    shares = [-(-config.num_sampling_steps * count // max(whole, 1)) for count, whole in zip(masks, total, strict=True)]
    return shares if config.unmasking in REWRITING else [min(pair) for pair in zip(shares, masks, strict=True)]


class Canvas:
    """The state of the loop: the ids, and the host's account of how far each row is.

    With the account a step is prepared without asking the device: where a policy opens as many as the grid says,
    nothing has to come back.

    own_steps: the steps that each row took, which key its draws. total, remaining: of each row, the positions that it
    fills and those that are left of them, over the whole canvas. inside, left, steps, taken: of the window that is
    being written; see View.
    """

    def __init__(
        self,
        ids: Int[Tensor, "b l"],
        mask_id: int,
        draw: Draw,
        is_free: Bool[Tensor, "b l"] | None = None,
        tokens_of: TokensOf = View.tokens_at,
    ) -> None:
        is_masked = ids == mask_id
        self.ids, self.mask_id, self.draw, self.tokens_of = ids.clone(), mask_id, draw, tokens_of
        self.rewrites = draw.config.unmasking in REWRITING
        is_found = draw.config.ends != "drawn" and draw.end_id not in draw.forbidden
        self.may_be_over = is_found and not self.rewrites
        self.is_free = is_masked if is_free is None else is_free & is_masked
        self.total: list[int] = self.is_free.sum(1).tolist()
        self.remaining = list(self.total)
        self.own_steps = [0] * len(ids)
        self.step = self.calls = 0
        self.num_sampling_steps = most_steps(self.is_free, draw.config)

    def windows(self) -> list[slice]:
        return blocks(self.ids.shape[1], self.draw.config)

    def start(self) -> Step:
        return self._snapshot(torch.zeros_like(self.is_free), lambda: torch.zeros(self.is_free.shape))

    def enter(self, window: slice) -> bool:
        """Turn to a window. Returns whether there is anything to write in it."""
        self.inside = torch.zeros_like(self.is_free)
        self.inside[:, window] = self.is_free[:, window]
        self.left: list[int] = self.inside.sum(1).tolist()
        self.steps, self.taken = steps_of(self.left, self.total, self.draw.config), 0
        self.may_end = self.draw.config.ends == "drawn" and self.draw.end_id not in self.draw.forbidden
        return any(self.left)

    def unfinished(self) -> list[int]:
        if self.rewrites:
            return [row for row, steps in enumerate(self.steps) if self.taken < steps]
        return [row for row, left in enumerate(self.left) if left]

    def advance(self, denoiser: Denoiser, rows: list[int]) -> Step:
        """One step of these rows; the others stay as they are."""
        view, tail = self._view(denoiser, rows), None
        if self.may_end:
            view, tail = self._end_texts(view, rows)
        move = POLICIES[self.draw.config.unmasking](view)
        ids, sure = self._written(view, move)
        opened = move.opened if tail is None else move.opened | tail
        self._account(move, (ids == self.mask_id) & view.is_free, rows)
        self.calls += len(view.seen)
        self.step += 1
        self.taken += 1
        index = self._index(rows)
        self.ids = self.ids.index_copy(0, index, ids)
        if self.may_be_over:
            opened = opened | self._close_texts(rows)
        full = torch.zeros_like(self.is_free).index_copy(0, index, opened)
        return self._snapshot(full, lambda: torch.zeros(full.shape, device=ids.device).index_copy(0, index, sure()))

    def _snapshot(self, opened: Bool[Tensor, "b l"], sure: Sure) -> Step:
        return Step(self.step, self.num_sampling_steps, self.ids, opened, self.calls, sure)

    def _index(self, rows: list[int]) -> Int[Tensor, " rows"]:
        return sent(torch.tensor(rows), self.ids.device)

    def _view(self, denoiser: Denoiser, rows: list[int]) -> View:
        index = self._index(rows)
        ids, draw = self.ids[index], self.draw.of_rows(index)
        is_going = sent(torch.tensor([self.taken < self.steps[row] for row in rows]), ids.device)
        inside = self.inside[index] & is_going[:, None]  # a row that is done may have to stay in the batch
        if self.draw.config.ends == "drawn" and not self.may_end:
            draw = replace(draw, forbidden=(*draw.forbidden, draw.end_id))
        left, steps = [self.left[row] for row in rows], [self.steps[row] for row in rows]
        grid = self.draw.config.grid
        return View(
            denoiser, ids, is_free=inside, is_masked=inside & (ids == self.mask_id), draw=draw,
            step=sent(torch.tensor([self.own_steps[row] for row in rows]), ids.device),
            left=left, taken=self.taken, steps=steps,
            count=[to_open(*pair, self.taken, grid) for pair in zip(left, steps, strict=True)],
            written=[1 - self.remaining[row] / max(1, self.total[row]) for row in rows], rewrites=self.rewrites,
        )  # fmt: skip

    def _end_texts(self, view: View, rows: list[int]) -> tuple[View, Bool[Tensor, "b l"]]:
        """Draw where the texts end, put end tokens from there on, and allow no others in the window.

        Returns the view of what is left, and which positions got end tokens.
        """
        index = self._index(rows)
        tail = ended(view) & self.is_free[index] & (view.ids == self.mask_id)
        self.may_end = False
        self.ids = self.ids.index_copy(0, index, torch.where(tail, view.draw.end_id, view.ids))
        self.is_free = self.is_free.index_copy(0, index, self.is_free[index] & ~tail)
        self.inside &= self.is_free
        for row, gone, left in zip(rows, tail.sum(1).tolist(), self.inside[index].sum(1).tolist(), strict=True):
            self.total[row] -= gone
            self.remaining[row] -= gone
            self.left[row], self.steps[row] = left, self.steps[row] if self.rewrites else min(self.steps[row], left)
        following = self._view(view.denoiser, rows)
        sight = view.sight.at(following.is_masked, sum(following.left))
        following.draw.forbid(sight.logits, sight.place)
        following.seen.append(sight)
        return following, tail

    def _close_texts(self, rows: list[int]) -> Bool[Tensor, "n l"]:
        """Rows that have an end token before their first mask are over: end tokens fill them, unasked for.

        Returns the positions that they took.
        """
        index = self._index(rows)
        ids, is_free = self.ids[index], self.is_free[index]
        is_masked = (ids == self.mask_id) & is_free
        is_end = (ids == self.draw.end_id) & is_free & (is_masked.cumsum(1) == 0)
        tail = is_masked & is_end.any(1, keepdim=True)
        taken = tail.sum(1).tolist()
        if any(taken):
            self.ids = self.ids.index_copy(0, index, torch.where(tail, self.draw.end_id, ids))
            self.is_free = self.is_free.index_copy(0, index, is_free & ~tail)
            for row, count in zip(rows, taken, strict=True):
                if count:
                    self.remaining[row], self.left[row] = self.remaining[row] - count, 0
        return tail

    def _written(self, view: View, move: Move) -> tuple[Int[Tensor, "b l"], Sure]:
        """The ids after the move, and what makes the probability of each new token."""
        ids = view.ids.clone() if move.remasked is None else view.ids.masked_fill(move.remasked, self.mask_id)
        count = None if move.count is None else sum(move.count)
        if not (bool(move.opened.any()) if count is None else count):
            return ids, lambda: torch.zeros(ids.shape, device=ids.device)
        sight = (view.seen[-1] if view.seen else view.look(move.opened, count)).at(move.opened, count)
        token = self.tokens_of(view, sight)
        ids.view(-1)[sight.place] = token
        return ids, lambda: view.table(sight, tokens.probability(sight.logits, token))

    def _account(self, move: Move, is_masked: Bool[Tensor, "b l"], rows: list[int]) -> None:
        """How many masks are left, asked from the device only where the move does not know."""
        if move.count is None:
            left = is_masked.sum(1).tolist()
        else:
            left = [self.left[row] - count for row, count in zip(rows, move.count, strict=True)]
        for row, now in zip(rows, left, strict=True):
            self.own_steps[row] += self.taken < self.steps[row] if self.rewrites else self.left[row] > 0
            self.remaining[row] += now - self.left[row]
            self.left[row] = now


def to_open(left: int, steps: int, taken: int, grid: str) -> int:
    """How many of `left` masks to open at a step when `taken` of `steps` were taken: one at least, all at the last.

    It depends on the row alone: one with fewer masks than steps opens one a step and is done early.
    """
    if taken + 1 >= steps:
        return left
    before, after = (masked_share(grid, (taken + ahead) / steps) for ahead in (0, 1))
    return max(1, left - math.floor(left * after / before + 1e-9)) if left else 0


def ended(view: View) -> Bool[Tensor, "b l"]:
    """Which positions lie behind the drawn end of their text, in the window and after it.

    What the model says of the end token at a position is the probability that the text is over by there. A text that is
    over stays over, so what it says of a later position holds for all before it as a most. One uniform number a row
    picks the place: behind the last position that is not over with it. At temperature 0 it is the median.

    A text that begins in the window is not empty: the number is drawn from what is above the least probability. A
    network has seldom seen a row of masks alone, and says of all its positions that they may well be the end.
    """
    is_asked, place = view.is_masked, torch.arange(view.ids.shape[1], device=view.ids.device)
    over = view.table(view.sight, tokens.probability_of(view.sight.logits, view.draw.end_id)).double()
    _, high, low, _ = view.draw.row_words(view.step)
    uniform = draws.pair_to_unit(high, low) if view.draw.config.temperature else torch.full_like(high, 0.5)
    least = over.masked_fill(~is_asked, 1).amin(1) * is_asked[:, 0]
    number = least + uniform * (1 - least)
    last_open = place.where(is_asked & (over <= number[:, None]), -1).amax(1)
    last_asked = place.where(is_asked, -1).amax(1)
    return (place > last_open[:, None]) & (last_open < last_asked)[:, None]  # type: ignore[no-any-return]
