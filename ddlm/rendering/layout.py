"""Words on lines: wrapped at a width, and a font size at which every text of a film fits its panel."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import matplotlib
from PIL import ImageFont

from ddlm.config import UserError
from ddlm.generation import MASK_SIGN

SMALLEST_FONT = 4
"""Pixels. Below it a picture shows grey bars."""
BREAK_SIGN = "-"
WORD = re.compile(rf"{MASK_SIGN}|[^\s{MASK_SIGN}]+")
"""A line may end between two masks: nobody knows yet where their words begin."""


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


@cache
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that comes with matplotlib, so that a picture is the same on every machine."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=1024)
def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> tuple[Line, ...]:
    """The lines of a text. Newlines stay, no word is cut unless it is wider than a whole line."""
    lines: list[Line] = []
    start = 0
    for paragraph in text.split("\n"):
        lines += _wrap_paragraph(text, start, start + len(paragraph), font, width)
        start += len(paragraph) + 1
    return tuple(lines)


def _wrap_paragraph(text: str, start: int, end: int, font: ImageFont.FreeTypeFont, width: float) -> Iterator[Line]:
    pieces: list[Piece] = []
    edge, previous, space = 0.0, start, font.getlength(" ")
    for word in WORD.finditer(text, start, end):
        x = edge + space * (word.start() - previous) if pieces else 0.0
        if pieces and x + font.getlength(word.group()) > width:
            yield Line(tuple(pieces))
            pieces, x = [], 0.0
        *heads, (first, last) = _chunks(text, *word.span(), font, width)
        for head in heads:
            yield Line((Piece(*head, 0.0),), breaks=True)
        pieces.append(Piece(first, last, x))
        edge, previous = x + font.getlength(text[first:last]), last
    yield Line(tuple(pieces))


def _chunks(text: str, start: int, end: int, font: ImageFont.FreeTypeFont, width: float) -> list[tuple[int, int]]:
    """A word whole, or, where it is wider than a line, in parts that leave room for the break sign."""
    chunks = []
    while font.getlength(text[start:end]) > width:
        stop = start + 1
        while font.getlength(text[start : stop + 1] + BREAK_SIGN) <= width:
            stop += 1
        chunks.append((start, stop))
        start = stop
    return [*chunks, (start, end)]


def line_height(size: int, spacing: float) -> int:
    return round(size * spacing)


def fit(texts: Iterable[str], font_name: str, size: int, spacing: float, panel: tuple[int, int]) -> int:
    """The largest font size up to `size` at which every text fits a panel of (width, height) pixels.

    Raises: UserError when even the smallest does not fit.
    """
    width, height = panel
    wanted = set(texts)
    while not all(_height(text, load_font(font_name, size), width, spacing) <= height for text in wanted):
        size -= 1
        if size < SMALLEST_FONT:
            raise UserError(
                f"rendering: the text does not fit {width}x{height} pixels even at {SMALLEST_FONT} px; "
                "raise rendering.width or rendering.height"
            )
    return size


def _height(text: str, font: ImageFont.FreeTypeFont, width: float, spacing: float) -> int:
    return len(wrap(text, font, width)) * line_height(int(font.size), spacing)
