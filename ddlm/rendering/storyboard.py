"""Frames of a denoising as moments that all stand on the same text: the union of everything that ever appears."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from ddlm.config import UserError
from ddlm.generation import MASK_SIGN, Frame, Span

NEVER = 1 << 30


class Mark(NamedTuple):
    """What a character is at a moment: prompt, shown, masked, gone (its place stays empty), or break sign.

    age: steps since a shown character was opened. confidence: how probable it was then; 1 where nobody said.
    """

    state: str
    age: int = NEVER
    confidence: float | None = None


@dataclass(frozen=True)
class Moment:
    """A text and a mark for each of its characters. number: of its frame.

    lasting: so many characters are there in the end; what follows are places of end tokens.
    share: how much of the text that is written in the end stands already, from 0 to 1.
    """

    number: int
    step: int
    num_sampling_steps: int
    text: str
    marks: tuple[Mark, ...]
    lasting: int
    share: float

    @property
    def progress(self) -> float:
        """The share of the steps; a film of one frame has none."""
        return self.step / max(1, self.num_sampling_steps)


@dataclass
class Cell:
    """One character of the union. An end token's place is a mask sign that is never born."""

    char: str
    is_prompt: bool = False
    born: int = NEVER
    dies: int = NEVER
    confidence: float = 1.0

    @property
    def lasts(self) -> bool:
        return self.dies == NEVER

    def mark(self, step: int) -> Mark:
        if step >= self.dies:
            return Mark("gone")
        if self.is_prompt:
            return Mark("prompt")
        return Mark("shown", step - self.born, self.confidence) if step >= self.born else Mark("masked")


class Hole(int):
    """So many masked tokens whose text no frame has shown so far."""


class MisfitError(Exception):
    """A frame does not follow from the one before: a character changed or went away."""


def storyboard(frames: Sequence[Frame]) -> list[Moment]:
    """The moments of a film, one a frame.

    Where every frame only opens masks of the one before, or adds some at the end, all moments have the text of the
    whole film and a mask has the place and width of what will open there, so that no word ever moves. Otherwise each
    frame stands for itself. Raises: UserError for no frames.
    """
    if not frames:
        raise UserError("film: got no frames; give those of one denoising, at least one")
    try:
        cells = union(frames)
    except MisfitError:
        most = max(frame.masked for frame in frames)
        return [_alone(number, frame, most) for number, frame in enumerate(frames)]
    text = "".join(cell.char for cell in cells)
    lasting = max((number for number, cell in enumerate(cells, 1) if cell.lasts), default=0)
    return [
        Moment(
            number, frame.step, frame.num_sampling_steps, text, tuple(cell.mark(frame.step) for cell in cells),
            lasting, share_of(cells, frame.step),
        )
        for number, frame in enumerate(frames)
    ]  # fmt: skip


def share_of(cells: Sequence[Cell], step: int) -> float:
    """Of the characters that are written and stay; where there are none, whether all places are decided."""
    wanted = [cell for cell in cells if cell.lasts and not cell.is_prompt] or cells
    return sum(step >= min(cell.born, cell.dies) for cell in wanted) / len(wanted) if wanted else 1.0


def union(frames: Sequence[Frame]) -> list[Cell]:
    """Every character that appears in any frame, in canvas order. Raises: MisfitError."""
    first, *following = frames
    parts: list[Cell | Hole] = []
    for span in first.spans:
        parts += [Hole(len(span.text))] if span.state == "masked" else _cells(span, first.step)
    for frame in following:
        parts = list(_advance(parts, frame))
    return [cell for part in parts for cell in (_places(part, NEVER) if isinstance(part, Hole) else [part])]


def _advance(parts: Sequence[Cell | Hole], frame: Frame) -> Iterator[Cell | Hole]:
    """The union after one more frame, which may stop early: the last one does, at its first end token."""
    known = [(char, span) for span in frame.spans for char in span.text][::-1]
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
    if any(span.state != "masked" for _, span in known):
        raise MisfitError
    if known:
        yield Hole(len(known))


def _open(hole: Hole, known: list[tuple[str, Span]], step: int) -> Iterator[Cell | Hole]:
    """What a hole turned into. Masks that went without a character were end tokens: their places become empty.

    known: the frame's characters and their spans, the next one last; those of this hole are taken.
    """
    taken = []
    while known and known[-1][1].state in ("new", "masked"):
        taken.append(known.pop())
    for (state, sure), group in groupby(taken, lambda pair: (pair[1].state, pair[1].confidence)):
        text = "".join(char for char, _ in group)
        yield from [Hole(len(text))] if state == "masked" else _cells(Span(text, state, sure), step)
    if all(span.state == "masked" for _, span in taken):
        yield from _places(hole - len(taken), step)


def _cells(span: Span, step: int) -> list[Cell]:
    return [Cell(char, span.state == "prompt", born=step, confidence=sure_of(span)) for char in span.text]


def sure_of(span: Span) -> float:
    """Its confidence, where it has one."""
    return 1.0 if span.confidence is None else span.confidence


def _places(count: int, dies: int) -> list[Cell]:
    """The places of end tokens: a space and a mask each."""
    return [Cell(char, dies=dies) for char in (" " + MASK_SIGN) * count]


def _alone(number: int, frame: Frame, most: int) -> Moment:
    """A frame on its own text; only its newest characters have an age. most: masks that a frame of the film has."""
    marks: list[Mark] = []
    for span in frame.spans:
        mark = Mark("shown", 0, sure_of(span)) if span.state == "new" else Mark(span.state)
        marks += [mark] * len(span.text)
    text, share = "".join(span.text for span in frame.spans), 1 - frame.masked / max(1, most)
    return Moment(number, frame.step, frame.num_sampling_steps, text, tuple(marks), len(text), share)
