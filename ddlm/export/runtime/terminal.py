"""A text in the making, shown where it is written: redrawn in place on a terminal, else a line a step."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Iterator
from typing import TextIO

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Screen:
    """Shows states on `out`, and leaves a terminal as it was."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.is_terminal, self.drawn = out, out.isatty(), 0

    def show(self, text: str, status: str) -> None:
        if not self.is_terminal:
            print(" ".join(printable(text).split("\n")), file=self.out, flush=True)
            return
        columns, rows = shutil.get_terminal_size()
        lines = [line for part in printable(text).split("\n") for line in folded(part, columns - 1)]
        shown = [*lines[-(rows - 2) :], f"{DIM}{status[: columns - 1]}{PLAIN}"]
        self.out.write(self._back() + "\n".join(shown) + "\n")
        self.out.flush()
        self.drawn = len(shown)

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.out.write(self._back())
        self.out.flush()
        self.drawn = 0

    def _back(self) -> str:
        """To the first line that was drawn, and away with all from there on."""
        return f"\x1b[{self.drawn}F\x1b[J" if self.drawn else ""


def printable(text: str) -> str:
    """Without characters that would steer the terminal: a model may write any byte."""
    return "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in text)


def folded(line: str, columns: int) -> Iterator[str]:
    """Pieces of a line no wider than the terminal, broken at spaces where there are any."""
    piece, width = "", 0
    for word in line.replace(" ", "\0 ").split("\0"):
        if piece and width + width_of(word) > columns:
            yield piece
            piece, width, word = "", 0, word.lstrip()
        for sign in word:
            if width + width_of(sign) > columns:
                yield piece
                piece, width = "", 0
            piece, width = piece + sign, width + width_of(sign)
    yield piece


def width_of(text: str) -> int:
    """Columns that a text takes."""
    return sum(0 if unicodedata.combining(sign) else 2 if is_wide(sign) else 1 for sign in text)


def is_wide(sign: str) -> bool:
    return unicodedata.east_asian_width(sign) in "WF"
