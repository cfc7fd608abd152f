"""How sure the model was of each token when it wrote it: a map over position and step, and the text in its colours."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw

from ddlm.generation import Frame, Tile
from ddlm.rendering.fonts import Face
from ddlm.rendering.page import BLOCK, INK, PAGE, PROMPT, QUIET, SURENESS, Page
from ddlm.rendering.storyboard import Mark, storyboard
from ddlm.rendering.theme import Box, Colour, Shot, mix, ramp

UNDERLINE = (0.1, 0.3)
"""Where the colour of a word stands below its baseline, in font sizes."""
TITLES = (
    "How probable each token was when it was written: position to the right, step downwards",
    "How probable each token was when it was written",
    "Probability when written",
    "",
)
"""The first one that fits."""
MASKED, GIVEN, NOTHING = -1.0, -2.0, -3.0
"""What stands in the map where there is no confidence: a mask, a prompt, the end."""


class Heat(Page):
    """A map above, the text below."""

    spacing = 1.6
    fade_steps = 0

    @property
    def map_box(self) -> Box:
        return Box(self.px(84), self.px(58), self.width - self.px(84), self.px(240))

    @property
    def box(self) -> Box:
        return Box(self.px(84), self.px(282), self.width - self.px(84), self.height - self.px(66))

    def tone(self, confidence: float) -> Colour:
        return ramp(SURENESS, confidence)

    @cached_property
    def map(self) -> Image.Image:
        """One pixel a position and frame."""
        values = np.array([[*row, NOTHING] for row in history(self.frames)])  # of an empty text there is a column too
        width = 1 + max(np.flatnonzero(((values >= 0) | (values == GIVEN)).any(0)), default=0)
        colours = {MASKED: BLOCK, GIVEN: mix(PROMPT, PAGE, 0.55), NOTHING: PAGE}
        rows = [[colours.get(value) or self.tone(value) for value in row[:width]] for row in values.tolist()]
        return Image.fromarray(np.array(rows, np.uint8).reshape(len(rows), -1, 3))

    def paint_background(self) -> Image.Image:
        image = super().paint_background()
        draw, font, box = ImageDraw.Draw(image), self.margin_font, self.map_box
        draw.rectangle((box.left - 1, box.top - 1, box.right, box.bottom), outline=BLOCK)
        title = next(title for title in TITLES if font.length(title) <= box.size[0])
        font.draw(draw, box.left, box.top - self.px(16), title, QUIET)
        steps, gap = str(self.frames[-1].num_sampling_steps), self.px(8)
        font.draw(draw, box.left - gap - font.length("0"), box.top + self.px(10), "0", QUIET)
        font.draw(draw, box.left - gap - font.length(steps), box.bottom, steps, QUIET)
        font.draw(draw, box.left, box.bottom + self.px(18), "1", QUIET)
        last = str(self.map.width)
        font.draw(draw, box.right - font.length(last), box.bottom + self.px(18), last, QUIET)
        return image

    @cached_property
    def full_map(self) -> Image.Image:
        """In the size in which it is shown."""
        return self.map.resize(self.map_box.size, Image.Resampling.NEAREST)

    def paint_progress(self, image: Image.Image, shot: Shot) -> None:
        super().paint_progress(image, shot)
        width, height = self.map_box.size
        now = round((shot.moment.number + 1) / self.map.height * height)
        image.paste(self.full_map.crop((0, 0, width, now)), self.map_box[:2])

    def ink(self, mark: Mark) -> Colour:
        if mark.state == "masked":
            return BLOCK
        return PROMPT if mark.state in ("prompt", "sign") else INK

    def write_word(
        self, draw: ImageDraw.ImageDraw, left: float, right: float, baseline: int, text: str, mark: Mark, font: Face
    ) -> None:
        if mark.confidence is not None and round(right) > round(left):
            top, bottom = (baseline + round(share * font.size) for share in UNDERLINE)
            draw.rectangle(Box(round(left), top, round(right), bottom).inside, self.tone(mark.confidence))
        super().write_word(draw, left, right, baseline, text, mark, font)


def history(frames: Sequence[Frame]) -> list[list[float]]:
    """Of each frame and position the confidence with which its token was written, or what stands there instead.

    All rows are as long as the longest. Where no tokens are known, the characters of the finished text are positions.
    """
    if not all(frame.tiles for frame in frames):
        return padded([[shown_at(mark) for mark in moment.marks] for moment in storyboard(frames)])
    rows: list[list[float]] = [[]]
    for frame in frames:
        before = [*rows[-1], *[NOTHING] * len(frame.tiles)]
        rows.append([value_of(tile, was) for tile, was in zip(frame.tiles, before, strict=False)])
    return padded(rows[1:])


def padded(rows: list[list[float]]) -> list[list[float]]:
    longest = max(map(len, rows))
    return [[*row, *[NOTHING] * (longest - len(row))] for row in rows]


def value_of(tile: Tile, before: float) -> float:
    """before: what stood at its position."""
    if tile.state == "shown":
        return max(before, 0.0)
    return {"masked": MASKED, "prompt": GIVEN, "end": NOTHING}.get(tile.state, tile.confidence)


def shown_at(mark: Mark) -> float:
    known = 1.0 if mark.confidence is None else mark.confidence
    return {"masked": MASKED, "prompt": GIVEN, "gone": NOTHING}.get(mark.state, known)
