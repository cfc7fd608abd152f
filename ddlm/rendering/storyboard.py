"""Frames of a denoising as moments that all stand on the same text: the union of everything that ever appears."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from ddlm.generation import MASK_SIGN, Frame

NEVER = 1 << 30


class Mark(NamedTuple):
    """What a character is at a moment: prompt, shown, masked, gone (its place stays empty), label or break sign.

    age: steps since a shown character was opened.
    """

    state: str
    age: int = NEVER


@dataclass(frozen=True)
class Moment:
    """One picture of the film: a text and a mark for each of its characters."""

    step: int
    num_sampling_steps: int
    text: str
    marks: tuple[Mark, ...]


@dataclass
class Cell:
    """One character of the union. An end token's place is a mask sign that is never born."""

    char: str
    is_prompt: bool = False
    born: int = NEVER
    dies: int = NEVER

    def mark(self, step: int) -> Mark:
        if step >= self.dies:
            return Mark("gone")
        if self.is_prompt:
            return Mark("prompt")
        return Mark("shown", step - self.born) if step >= self.born else Mark("masked")


class Hole(int):
    """So many masked tokens whose text no frame has shown so far."""


class MisfitError(Exception):
    """A frame does not follow from the one before: a character changed or went away."""


def storyboard(frames: Sequence[Frame]) -> list[Moment]:
    """The moments of a film, one a frame.

    Where every frame only opens masks of the one before, all moments have the text of the whole film and a mask has
    the place and width of what will open there, so that no word ever moves. Otherwise each frame stands for itself.
    """
    try:
        cells = union(frames)
    except MisfitError:
        return [_alone(frame) for frame in frames]
    text = "".join(cell.char for cell in cells)
    return [
        Moment(frame.step, frame.num_sampling_steps, text, tuple(cell.mark(frame.step) for cell in cells))
        for frame in frames
    ]


def union(frames: Sequence[Frame]) -> list[Cell]:
    """Every character that appears in any frame, in canvas order. Raises: MisfitError."""
    first, *following = frames
    parts: list[Cell | Hole] = []
    for span in first.spans:
        parts += [Hole(len(span.text))] if span.state == "masked" else _cells(span.text, span.state, first.step)
    for frame in following:
        parts = list(_advance(parts, frame))
    return [cell for part in parts for cell in (_places(part, NEVER) if isinstance(part, Hole) else [part])]


def _advance(parts: Sequence[Cell | Hole], frame: Frame) -> Iterator[Cell | Hole]:
    """The union after one more frame, which may stop early: the last one does, at its first end token."""
    known = [(char, span.state) for span in frame.spans for char in span.text][::-1]
    for part in parts:
        if isinstance(part, Hole):
            yield from _open(part, known, frame.step)
        elif part.dies <= frame.step:
            yield part
        elif not known:
            part.dies = frame.step
            yield part
        elif known.pop()[0] == part.char:
            yield part
        else:
            raise MisfitError
    if known:
        raise MisfitError


def _open(hole: Hole, known: list[tuple[str, str]], step: int) -> Iterator[Cell | Hole]:
    """What a hole turned into. Masks that went without a character were end tokens: their places become empty.

    known: the frame's characters and their states, the next one last; those of this hole are taken.
    """
    taken = []
    while known and known[-1][1] in ("new", "masked"):
        taken.append(known.pop())
    for state, group in groupby(taken, itemgetter(1)):
        chars = [char for char, _ in group]
        yield from [Hole(len(chars))] if state == "masked" else _cells(chars, state, step)
    if all(state == "masked" for _, state in taken):
        yield from _places(hole - len(taken), step)


def _cells(text: Iterable[str], state: str, step: int) -> list[Cell]:
    return [Cell(char, state == "prompt", born=step) for char in text]


def _places(count: int, dies: int) -> list[Cell]:
    """The places of end tokens: a space and a mask each."""
    return [Cell(char, dies=dies) for char in (" " + MASK_SIGN) * count]


def _alone(frame: Frame) -> Moment:
    """A frame on its own text; only its newest characters have an age."""
    marks: list[Mark] = []
    for span in frame.spans:
        mark = Mark("shown", 0) if span.state == "new" else Mark(span.state)
        marks += [mark] * len(span.text)
    return Moment(frame.step, frame.num_sampling_steps, "".join(span.text for span in frame.spans), tuple(marks))
