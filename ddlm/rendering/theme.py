"""What a theme decides, and the drawing that all themes share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import ClassVar, NamedTuple

from PIL import Image, ImageDraw

from ddlm.generation import Frame
from ddlm.rendering.fonts import CAPITAL, Face, face
from ddlm.rendering.layout import BREAK_SIGN, Line, Panel, Piece, line_height
from ddlm.rendering.storyboard import Mark, Moment

Colour = tuple[int, int, int]


class Box(NamedTuple):
    """Pixels; right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        return self.right - self.left, self.bottom - self.top

    @property
    def inside(self) -> tuple[int, int, int, int]:
        """As drawing wants it: right and bottom belong to the box."""
        return self.left, self.top, self.right - 1, self.bottom - 1


@dataclass(frozen=True)
class Shot:
    """One picture of a film: a moment, the page of it that is seen, and for how long."""

    moment: Moment
    lines: tuple[Line, ...]
    page: int
    num_pages: int
    ms: int


class Theme(ABC):
    """The look of a film of one size. `unit` scales margins and furniture with the picture."""

    typeface: ClassVar[str]
    spacing: ClassVar[float]
    """Line height in font sizes."""
    fade_steps: ClassVar[int]
    """For so many steps a new word looks new. The film goes on until the last ones have settled."""
    mount: ClassVar[Colour]
    """What stands between the pictures of a contact sheet."""

    def __init__(self, width: int, height: int, frames: Sequence[Frame]) -> None:
        self.width, self.height, self.frames = width, height, frames
        self.unit = min(width / 960, height / 600)

    def px(self, length: float) -> int:
        """A length of the 960×600 design in pixels of this picture."""
        return max(1, round(length * self.unit))

    @property
    @abstractmethod
    def box(self) -> Box:
        """Where the text stands; none of it is drawn outside."""

    @abstractmethod
    def paint_background(self) -> Image.Image:
        """What is the same in every picture."""

    @abstractmethod
    def paint_progress(self, image: Image.Image, shot: Shot) -> None:
        """How far the denoising is: counts up, fills up."""

    @abstractmethod
    def ink(self, mark: Mark) -> Colour:
        """The colour of a character, or of the block that stands for a masked one."""

    @property
    def panel(self) -> Panel:
        return Panel(*self.box.size, self.typeface, self.spacing)

    @cached_property
    def background(self) -> Image.Image:
        return self.paint_background()

    def paint(self, shot: Shot, size: int) -> Image.Image:
        """The picture of a moment with text of `size` pixels."""
        image = self.background.copy()
        self.paint_progress(image, shot)
        self.paint_text(image, shot, size)
        return image

    def paint_text(self, image: Image.Image, shot: Shot, size: int) -> None:
        text = image.crop(self.box)
        self.write(ImageDraw.Draw(text), shot, size)
        image.paste(text, self.box[:2])

    def write(self, draw: ImageDraw.ImageDraw, shot: Shot, size: int) -> None:
        """Words and blocks, in coordinates of the panel."""
        font, height = face(self.typeface, size), line_height(size, self.spacing)
        for number, line in enumerate(shot.lines):
            baseline = number * height + (height + round(CAPITAL * size)) // 2
            for piece in line.pieces:
                right = self._write_piece(draw, shot.moment, piece, baseline, font)
                if line.breaks:
                    font.draw(draw, right, baseline, BREAK_SIGN, self.ink(Mark("sign")))

    def _write_piece(self, draw: ImageDraw.ImageDraw, moment: Moment, piece: Piece, baseline: int, font: Face) -> float:
        """Returns the right edge."""
        left = piece.x
        for start, end, mark in stretches(piece, moment.marks):
            right = piece.x + font.length(moment.text[piece.start : end])
            if mark.state == "masked" and round(right) > round(left):
                top = baseline - round(CAPITAL * font.size)
                self.write_block(draw, Box(round(left), top, round(right), baseline + 1), font.size)
            elif mark.state not in ("masked", "gone"):
                self.write_word(draw, left, right, baseline, moment.text[start:end], mark, font)
            left = right
        return left

    def write_word(
        self, draw: ImageDraw.ImageDraw, left: float, right: float, baseline: int, text: str, mark: Mark, font: Face
    ) -> None:
        """A stretch of letters that are marked alike."""
        del right
        font.draw(draw, left, baseline, text, self.ink(mark))

    def write_block(self, draw: ImageDraw.ImageDraw, box: Box, size: int) -> None:
        """What stands for a masked stretch of a word."""
        del size
        draw.rectangle(box.inside, self.ink(Mark("masked")))


def stretches(piece: Piece, marks: Sequence[Mark]) -> Iterator[tuple[int, int, Mark]]:
    """The parts of a piece that are marked alike, as (start, end, mark)."""
    for mark, group in groupby(range(piece.start, piece.end), marks.__getitem__):
        positions = list(group)
        yield positions[0], positions[-1] + 1, mark


def mix(start: Colour, end: Colour, share: float) -> Colour:
    """`share` of the way from one colour to another, at most all of it."""
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(start, end, strict=True))
    return red, green, blue


def ramp(colours: Sequence[Colour], share: float) -> Colour:
    """The colour at a share of the way through several."""
    place = min(max(share, 0.0), 1.0) * (len(colours) - 1)
    number = min(int(place), len(colours) - 2)
    return mix(colours[number], colours[number + 1], place - number)
