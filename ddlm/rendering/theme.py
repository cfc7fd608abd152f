"""What a theme decides, and the drawing that all themes share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from typing import ClassVar, NamedTuple

from PIL import Image, ImageDraw

from ddlm.rendering.layout import BREAK_SIGN, Piece, line_height, load_font, wrap
from ddlm.rendering.storyboard import Mark, Moment

Colour = tuple[int, int, int]

CAPITAL = 0.72
"""The height of a capital letter, and of a block, in font sizes."""


class Box(NamedTuple):
    """Pixels; right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        return self.right - self.left, self.bottom - self.top


class Theme(ABC):
    """The look of a film of one size. `unit` scales margins and furniture with the picture."""

    font: ClassVar[str]
    spacing: ClassVar[float]
    """Line height in font sizes."""
    fade_steps: ClassVar[int]
    """For so many steps a new word looks new. The film goes on until the last ones have settled."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.unit = min(width / 960, height / 600)

    def px(self, length: float) -> int:
        """A length of the 960×600 design in pixels of this picture."""
        return max(1, round(length * self.unit))

    @property
    @abstractmethod
    def panel(self) -> Box:
        """Where the text stands; none of it is drawn outside."""

    @abstractmethod
    def paint_background(self) -> Image.Image:
        """What is the same in every picture."""

    @abstractmethod
    def paint_progress(self, image: Image.Image, moment: Moment) -> None:
        """How far the denoising is: counts up, fills up."""

    @abstractmethod
    def ink(self, mark: Mark) -> Colour:
        """The colour of a character, or of the block that stands for a masked one."""

    def script(self, moment: Moment) -> Moment:
        """The moment with whatever the theme writes around its text."""
        return moment

    @cached_property
    def background(self) -> Image.Image:
        return self.paint_background()

    def paint(self, moment: Moment, size: int) -> Image.Image:
        """The picture of a scripted moment with text of `size` pixels."""
        image = self.background.copy()
        self.paint_progress(image, moment)
        self.paint_text(image, moment, size)
        return image

    def paint_text(self, image: Image.Image, moment: Moment, size: int) -> None:
        text = image.crop(self.panel)
        self.write(ImageDraw.Draw(text), moment, size)
        image.paste(text, self.panel[:2])

    def write(self, draw: ImageDraw.ImageDraw, moment: Moment, size: int) -> None:
        """Words and blocks, in coordinates of the panel."""
        font, height = load_font(self.font, size), line_height(size, self.spacing)
        for number, line in enumerate(wrap(moment.text, font, self.panel.size[0])):
            baseline = number * height + (height + round(CAPITAL * size)) // 2
            for piece in line.pieces:
                right = self._write_piece(draw, moment, piece, baseline, size)
                if line.breaks:
                    draw.text((right, baseline), BREAK_SIGN, self.ink(Mark("sign")), font, anchor="ls")

    def _write_piece(self, draw: ImageDraw.ImageDraw, moment: Moment, piece: Piece, baseline: int, size: int) -> float:
        """Returns the right edge."""
        font, left = load_font(self.font, size), piece.x
        for start, end, mark in stretches(piece, moment.marks):
            right = piece.x + font.getlength(moment.text[piece.start : end])
            if mark.state == "masked":
                top = baseline - round(CAPITAL * size)
                self.write_block(draw, Box(round(left), top, round(right), baseline + 1), size)
            elif mark.state != "gone":
                draw.text((left, baseline), moment.text[start:end], self.ink(mark), font, anchor="ls")
            left = right
        return left

    def write_block(self, draw: ImageDraw.ImageDraw, box: Box, size: int) -> None:
        """What stands for a masked stretch of a word."""
        del size
        draw.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), self.ink(Mark("masked")))


def stretches(piece: Piece, marks: Sequence[Mark]) -> Iterator[tuple[int, int, Mark]]:
    """The parts of a piece that are marked alike, as (start, end, mark)."""
    for mark, group in groupby(range(piece.start, piece.end), marks.__getitem__):
        positions = list(group)
        yield positions[0], positions[-1] + 1, mark


def as_dialogue(moment: Moment, user: str, writer: str) -> Moment:
    """A screen's two voices: what stands at the beginning as prompt under one label, all the rest under the other."""
    length = next((i for i, mark in enumerate(moment.marks) if mark.state != "prompt"), len(moment.marks))
    asked = [(f"{user}\n", None), (moment.text[:length], moment.marks[:length]), ("\n\n", None)] if length else []
    told = [(f"{writer}\n", None), (moment.text[length:], moment.marks[length:])]
    return joined(moment, [*asked, *told])


def joined(moment: Moment, parts: Sequence[tuple[str, tuple[Mark, ...] | None]]) -> Moment:
    """A moment of these parts; those without marks are labels."""
    marks = [mark for text, own in parts for mark in own or (Mark("label"),) * len(text)]
    return replace(moment, text="".join(text for text, _ in parts), marks=tuple(marks))


def mix(start: Colour, end: Colour, share: float) -> Colour:
    """`share` of the way from one colour to another, at most all of it."""
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(start, end, strict=True))
    return red, green, blue
