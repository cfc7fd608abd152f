"""Drafts become texts: batches of bounded size, and windows that slide over texts longer than the canvas."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.sampler import BlockDenoiser, Step, denoise, most_steps
from ddlm.diffusion.tokens import Draw
from ddlm.diffusion.view import Denoiser
from ddlm.generation.drafts import Draft
from ddlm.generation.frames import Frame, Tile, frame_of
from ddlm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Engine:
    """What runs, and where: a denoiser for canvases of `seq_len`, and, where keys and values are reused between the
    steps of a block, what makes the denoiser of blocks for a canvas."""

    denoiser: Denoiser
    reuse: Callable[[], BlockDenoiser] | None
    tokenizer: Tokenizer
    seq_len: int
    device: torch.device


@dataclass(frozen=True)
class Window:
    """A text as far as it stands, and the canvas that goes on with it.

    before: tokens of the text in front of the canvas. to_write: masks that are written in a text of known length.
    """

    before: list[int]
    canvas: list[int]
    to_write: int = 0


class Writing:
    """Iterating writes the texts; `texts` and `calls` are whole when it is over.

    texts: the tokens of each draft, hidden ones included, up to where the text ends.
    """

    def __init__(self, engine: Engine, drafts: Sequence[Draft], sampling: SamplingConfig, seed: int, rows: int) -> None:
        self.engine, self.drafts, self.sampling, self.seed, self.rows = engine, drafts, sampling, seed, rows
        self.texts: list[list[int]] = [list(draft.tokens) for draft in drafts]
        self.calls = self.steps = 0

    def __iter__(self) -> Iterator["Snapshot"]:
        for start in range(0, len(self.drafts), self.rows):
            yield from self._batch(range(start, min(start + self.rows, len(self.drafts))))

    def _batch(self, numbers: Sequence[int]) -> Iterator["Snapshot"]:
        left = {number: self.drafts[number].to_write for number in numbers}
        rounds = self._most_steps(numbers)
        steps_before, steps_after = 0, sum(rounds)
        for most in rounds:
            steps_after -= most
            windows = {number: self._window(number, self.texts[number], count) for number, count in left.items()}
            snapshot = None
            for step in self._denoise(windows):
                snapshot = Snapshot(self, list(windows), list(windows.values()), step, steps_before, steps_after)
                yield snapshot
            assert snapshot
            steps_before += snapshot.step.step
            self.calls += snapshot.step.calls
            for row, (number, window) in enumerate(windows.items()):
                written = [*window.before, *snapshot.step.ids[row].tolist()]
                self.texts[number] = self._finished(written, number, left[number], window)
            left = left_after(left, windows)
        self.steps = max(self.steps, steps_before)

    def _most_steps(self, numbers: Sequence[int]) -> list[int]:
        """Of each round of windows, whose masks the lengths alone decide."""
        tokenizer, seq_len = self.engine.tokenizer, self.engine.seq_len
        left = {number: self.drafts[number].to_write for number in numbers}
        texts, rounds = {number: self.texts[number] for number in numbers}, []
        while left:
            windows = {number: self._window(number, texts[number], count) for number, count in left.items()}
            canvases = torch.tensor([window.canvas for window in windows.values()])
            rounds.append(most_steps(canvases == tokenizer.mask_id, self.sampling))
            for number, window in windows.items():  # any token will do, and a canvas sees no more than its length
                texts[number] = [*texts[number], *[tokenizer.end_id] * window.to_write][-seq_len:]
            left = left_after(left, windows)
        return rounds

    def _window(self, number: int, text: list[int], count: int | None) -> Window:
        """The canvas of a text: all of it where it fits, else what fits behind half a canvas of what stands."""
        seq_len = self.engine.seq_len
        mask_id, end_id = self.engine.tokenizer.mask_id, self.engine.tokenizer.end_id
        if count is None:
            filler = end_id if self.drafts[number].is_closed else mask_id
            return Window([], text + [filler] * (seq_len - len(text)))
        start = 0 if len(text) + count <= seq_len else max(0, len(text) - seq_len // 2)
        room = seq_len - (len(text) - start)
        to_write = min(count, room)
        return Window(text[:start], text[start:] + [mask_id] * to_write + [end_id] * (room - to_write), to_write)

    def _finished(self, written: list[int], number: int, count: int | None, window: Window) -> list[int]:
        draft = self.drafts[number]
        if draft.is_closed:
            return written[: len(draft.tokens)]
        if count is not None:
            return written[: len(self.texts[number]) + window.to_write]
        return until_stop(written, len(draft.tokens), self.engine.tokenizer.stop_ids)

    def _denoise(self, windows: dict[int, Window]) -> Iterator[Step]:
        engine, drafts = self.engine, [self.drafts[number] for number in windows]
        ids = torch.tensor([window.canvas for window in windows.values()], device=engine.device)
        is_open = drafts[0].to_write is None and not drafts[0].is_closed
        draw = Draw(
            self.sampling, self.seed, self._per_row([draft.number for draft in drafts]), engine.tokenizer.end_id,
            forbidden=engine.tokenizer.unwritable_ids + (() if is_open else engine.tokenizer.stop_ids),
            first_position=self._per_row([len(window.before) for window in windows.values()]),
        )  # fmt: skip
        draw = self._with_word_starts(draw, drafts, list(windows.values()), ids)
        of_block = engine.reuse() if engine.reuse else None
        return denoise(engine.denoiser, ids, engine.tokenizer.mask_id, draw, denoiser_of=of_block)

    def _with_word_starts(self, draw: Draw, drafts: Sequence[Draft], windows: Sequence[Window], ids: Tensor) -> Draw:
        if not any(draft.word_starts for draft in drafts):
            return draw
        starts = torch.zeros_like(ids, dtype=torch.bool)
        for row, (draft, window) in enumerate(zip(drafts, windows, strict=True)):
            for place in draft.word_starts:
                starts[row, max(0, place - len(window.before))] |= place >= len(window.before)
        word_starts = torch.tensor(self.engine.tokenizer.word_starts(), device=ids.device)
        return replace(draw, starts_word=starts, word_starts=word_starts)

    def _per_row(self, values: list[int]) -> Tensor:
        return torch.tensor(values, device=self.engine.device)


@dataclass(frozen=True)
class Snapshot:
    """A batch after a step. steps_before: those of windows that are finished. steps_after: those of the windows to
    come, at most."""

    writing: Writing
    numbers: list[int]
    windows: list[Window]
    step: Step
    steps_before: int
    steps_after: int

    def frame(self, row: int = 0) -> Frame:
        """One text of the batch as people see it; hidden tokens are left out."""
        draft, tokenizer = self.writing.drafts[self.numbers[row]], self.writing.engine.tokenizer
        before = self.windows[row].before
        ids = [*before, *self.step.ids[row].tolist()]
        opened = {len(before) + place for place in self.step.opened[row].nonzero()[:, 0].tolist()}
        shown = until_stop(ids, len(draft.tokens), tokenizer.stop_ids, mask_id=tokenizer.mask_id)
        sure = [0.0] * len(before) + self.step.confidence[row].tolist()
        tiles = [
            Tile(token, self._state(draft, place, token, opened), sure[place])
            for place, token in enumerate(shown)
            if place >= draft.hidden
        ]
        at_most = self.steps_before + self.step.num_sampling_steps + self.steps_after
        return frame_of(tiles, tokenizer, self.steps_before + self.step.step, at_most)

    def _state(self, draft: Draft, place: int, token: int, opened: set[int]) -> str:
        mask_id, stop_ids = self.writing.engine.tokenizer.mask_id, self.writing.engine.tokenizer.stop_ids
        if token == mask_id:
            return "masked"
        if token in stop_ids:
            return "end"
        if place < len(draft.tokens) and draft.tokens[place] != mask_id:
            return "prompt"
        return "new" if place in opened else "shown"


def left_after(left: dict[int, int | None], windows: dict[int, Window]) -> dict[int, int | None]:
    """What the texts that aren't finished after these windows still have to write."""
    return {
        number: count - windows[number].to_write
        for number, count in left.items()
        if count is not None and count > windows[number].to_write
    }


def until_stop(ids: list[int], start: int, stop_ids: Sequence[int], mask_id: int | None = None) -> list[int]:
    """The ids before the first that ends the text, from `start` on, if no mask stands before it."""
    for place in range(start, len(ids)):
        if ids[place] in stop_ids:
            return ids[:place]
        if ids[place] == mask_id:
            return ids
    return ids
