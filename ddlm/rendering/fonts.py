"""Typefaces: fonts that come with the package, others that step in for characters they lack, and a box at the end."""

import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path

import matplotlib
from fontTools.ttLib import TTFont
from PIL import ImageDraw, ImageFont

SERIF, MONO, MONO_BOLD = "SourceSerifPro-Regular.otf", "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"
CHAINS = {
    SERIF: (SERIF, "DejaVuSerif.ttf", "DejaVuSans.ttf"),
    MONO: (MONO, "DejaVuSans.ttf"),
    MONO_BOLD: (MONO_BOLD, "DejaVuSans-Bold.ttf"),
}
FOLDERS = (Path(__file__).with_name("typefaces"), Path(matplotlib.get_data_path()) / "fonts" / "ttf")
"""Our own and matplotlib's: a picture is the same on every machine, whatever fonts that has."""
CAPITAL = 0.72
"""The height of a capital letter, and of a box, in font sizes."""
BOX, WIDE_BOX = 0.6, 1.2
"""The widths of a box that stands for a character, in font sizes: one and two cells of a monospaced font."""
UNSEEN = frozenset({"Cc", "Cf", "Mn", "Me"})
"""Categories of characters that take no room of their own: without a glyph they are left out."""

Font = ImageFont.FreeTypeFont
Ink = tuple[int, int, int]


class Face:
    """A typeface of one size in pixels. Laid out plainly, from left to right: shaping depends on what is installed."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size
        self.fonts = [load_font(font, size) for font in CHAINS[name]]

    def length(self, text: str) -> float:
        """Pixels from the left edge of a text to the place of what follows."""
        return length(self, text)

    def draw(self, draw: ImageDraw.ImageDraw, x: float, baseline: int, text: str, ink: Ink) -> None:
        for number, part in self._runs(text):
            if number is None:
                x = self._draw_boxes(draw, x, baseline, part, ink)
            else:
                draw.text((x, baseline), part, ink, self.fonts[number], anchor="ls")
                x += self.fonts[number].getlength(part)

    def _draw_boxes(self, draw: ImageDraw.ImageDraw, x: float, baseline: int, text: str, ink: Ink) -> float:
        """Returns the right edge."""
        gap = max(1, self.size // 12)
        for char in text:
            right = x + box_width(char) * self.size
            if right > x:
                edges = (round(x) + gap, baseline - round(CAPITAL * self.size), round(right) - 1 - gap, baseline)
                draw.rectangle(edges, outline=ink, width=max(1, self.size // 16))
            x = right
        return x

    def _runs(self, text: str) -> Iterator[tuple[int | None, str]]:
        """Stretches of one font, by its number; None where no font has the characters."""
        if covered(CHAINS[self.name][0]).issuperset(map(ord, text)):
            yield 0, text
            return
        for number, chars in groupby(text, lambda char: font_number(self.name, char)):
            yield number, "".join(chars)


@cache
def face(name: str, size: int) -> Face:
    return Face(name, size)


@lru_cache(maxsize=1 << 14)
def length(face: Face, text: str) -> float:
    return sum(
        sum(map(box_width, part)) * face.size if number is None else face.fonts[number].getlength(part)
        for number, part in face._runs(text)
    )


@cache
def font_number(name: str, char: str) -> int | None:
    """Which font of the chain has the character, the first if several do."""
    return next((number for number, font in enumerate(CHAINS[name]) if ord(char) in covered(font)), None)


@cache
def box_width(char: str) -> float:
    """In font sizes."""
    if unicodedata.category(char) in UNSEEN:
        return 0.0
    return WIDE_BOX if unicodedata.east_asian_width(char) in ("W", "F") else BOX


@cache
def covered(font: str) -> frozenset[int]:
    """The characters that a font has, by number."""
    with TTFont(find(font), lazy=True) as opened:
        return frozenset(opened.getBestCmap())


@cache
def load_font(font: str, size: int) -> Font:
    return ImageFont.truetype(find(font), size, layout_engine=ImageFont.Layout.BASIC)


def find(font: str) -> Path:
    return next(folder / font for folder in FOLDERS if (folder / font).exists())
