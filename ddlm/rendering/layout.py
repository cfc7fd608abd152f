"""Words on lines and lines on pages: wrapped at a width, at a size at which the text fits, else on several pages."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ddlm.config import UserError
from ddlm.generation import MASK_SIGN
from ddlm.rendering.fonts import Face, face

SHRINKING = 2 / 3
"""A text is set smaller, down to this share of the wanted size, before it is given a second page."""
SMALLEST = 8
"""Pixels; below it letters are grey bars."""
BREAK_SIGN = "-"
ALONE = rf"{MASK_SIGN}\u2e80-\u9fff\uac00-\ud7af\uff00-\uffef\U00020000-\U0003ffff"
WORD = re.compile(rf"[{ALONE}]|[^\s{ALONE}]+")
"""A line may end between two masks, since nobody knows yet where their words begin, and between Chinese characters."""


@dataclass(frozen=True)
class Piece:
    """text[start:end], without white space, `x` pixels from the left edge."""

    start: int
    end: int
    x: float


@dataclass(frozen=True)
class Line:
    """`breaks`: its last word goes on in the next line and a sign says so."""

    pieces: tuple[Piece, ...]
    breaks: bool = False


@dataclass(frozen=True)
class Panel:
    """What text is set in: width and height in pixels, a typeface, and the height of a line in font sizes."""

    width: int
    height: int
    typeface: str
    spacing: float

    def rows(self, size: int) -> int:
        """How many lines of this size there is room for."""
        return self.height // line_height(size, self.spacing)

    def lines(self, text: str, size: int) -> tuple[Line, ...]:
        return wrap(text, face(self.typeface, size), self.width)

    def fits(self, text: str, size: int) -> bool:
        return len(self.lines(text, size)) <= self.rows(size)

    def size_for(self, texts: Sequence[str], wanted: int) -> int:
        """The largest size up to `wanted` at which each text fits; where none does, one for pages.

        Raises: UserError for a panel without room for a line.
        """
        size, smallest = self.full_size(wanted), max(SMALLEST, round(wanted * SHRINKING))
        sizes = range(size, smallest - 1, -1)
        return next((smaller for smaller in sizes if all(self.fits(text, smaller) for text in texts)), size)

    def full_size(self, wanted: int) -> int:
        """The largest size up to `wanted` that leaves room for two lines of a few letters.

        Raises: UserError where there is none.
        """
        for size in range(wanted, SMALLEST - 1, -1):
            if self.rows(size) >= 2 and face(self.typeface, size).length("mmmm" + BREAK_SIGN) <= self.width:
                return size
        raise UserError(
            f"rendering: {self.width}x{self.height} pixels are left for the text, too few for two lines; "
            "raise rendering.width or rendering.height"
        )

    def pages(self, text: str, size: int, lasting: int) -> list[tuple[Line, ...]]:
        """The lines of each page, one page at least.

        lasting: characters that are there in the end; only they are given pages, and what follows them on the last
        one is left out where it has no room.
        """
        lines, rows = self.lines(text, size), self.rows(size)
        kept = max((number for number, line in enumerate(lines, 1) if starts_before(line, lasting)), default=1)
        starts = range(0, kept, rows)
        return [lines[start : start + rows] for start in starts]


def starts_before(line: Line, end: int) -> bool:
    return any(piece.start < end for piece in line.pieces)


def line_height(size: int, spacing: float) -> int:
    return round(size * spacing)


@lru_cache(maxsize=1024)
def wrap(text: str, font: Face, width: float) -> tuple[Line, ...]:
    """The lines of a text. Newlines stay, no word is cut unless it is wider than a whole line."""
    lines: list[Line] = []
    start = 0
    for paragraph in text.split("\n"):
        lines += _wrap_paragraph(text, start, start + len(paragraph), font, width)
        start += len(paragraph) + 1
    return tuple(lines)


def _wrap_paragraph(text: str, start: int, end: int, font: Face, width: float) -> Iterator[Line]:
    pieces: list[Piece] = []
    edge, previous, space = 0.0, start, font.length(" ")
    for word in WORD.finditer(text, start, end):
        x = edge + space * (word.start() - previous) if pieces else 0.0
        if pieces and x + font.length(word.group()) > width:
            yield Line(tuple(pieces))
            pieces, x = [], 0.0
        *heads, (first, last) = _chunks(text, *word.span(), font, width)
        for head in heads:
            yield Line((Piece(*head, 0.0),), breaks=True)
        pieces.append(Piece(first, last, x))
        edge, previous = x + font.length(text[first:last]), last
    yield Line(tuple(pieces))


def _chunks(text: str, start: int, end: int, font: Face, width: float) -> list[tuple[int, int]]:
    """A word whole, or, where it is wider than a line, in parts that leave room for the break sign."""
    chunks = []
    while font.length(text[start:end]) > width:
        stop = start + 1
        while font.length(text[start : stop + 1] + BREAK_SIGN) <= width:
            stop += 1
        chunks.append((start, stop))
        start = stop
    return [*chunks, (start, end)]
