"""A light page with a margin that says how far the text is: what paper and heat share."""

from abc import abstractmethod

from PIL import Image, ImageDraw

from ddlm.rendering.fonts import SERIF, Face, face
from ddlm.rendering.theme import Colour, Shot, Theme

PAGE: Colour = (251, 248, 241)
INK: Colour = (41, 37, 33)
PROMPT: Colour = (128, 116, 100)
SURENESS: tuple[Colour, ...] = ((205, 55, 25), (176, 122, 10), (16, 122, 140))
"""From unsure to sure: vermilion, ochre, teal, told apart by every kind of eye."""
BLOCK: Colour = (232, 225, 211)
QUIET: Colour = (128, 118, 104)


class Page(Theme):
    """Its margin: step, page and share unmasked, and what the colours mean."""

    typeface = SERIF
    mount = (216, 208, 193)

    @abstractmethod
    def tone(self, confidence: float) -> Colour:
        """What stands for so much confidence."""

    @property
    def margin_font(self) -> Face:
        return face(SERIF, max(9, self.px(15)))

    @property
    def margin_line(self) -> int:
        return self.height - self.px(33)

    def paint_background(self) -> Image.Image:
        return Image.new("RGB", (self.width, self.height), PAGE)

    def paint_progress(self, image: Image.Image, shot: Shot) -> None:
        draw, font, moment = ImageDraw.Draw(image), self.margin_font, shot.moment
        share = f"{int(100 * moment.share)} % unmasked"
        font.draw(draw, self.box.left, self.margin_line, self._told(shot, moment.step), QUIET)
        font.draw(draw, self.box.right - font.length(share), self.margin_line, share, QUIET)
        longest = font.length(self._told(shot, moment.num_sampling_steps)), font.length("100 % unmasked")
        gap = self.px(24)
        self._write_legend(draw, self.box.left + longest[0] + gap, self.box.right - longest[1] - gap)

    def _told(self, shot: Shot, step: int) -> str:
        pages = f" · page {shot.page + 1} of {shot.num_pages}" if shot.num_pages > 1 else ""
        return f"step {step} of {shot.moment.num_sampling_steps}{pages}"

    def _write_legend(self, draw: ImageDraw.ImageDraw, left: float, right: float) -> None:
        """unsure ▬▬▬ sure, in the middle of the margin, where there is room between left and right."""
        font, bar, gap = self.margin_font, self.px(72), self.px(7)
        start, top = (self.width - bar) // 2, self.margin_line - round(font.size * 0.42)
        low, high = start - gap - font.length("unsure"), start + bar + gap
        if low < left or high + font.length("sure") > right:
            return
        for x in range(bar):
            draw.rectangle((start + x, top, start + x, top + self.px(4) - 1), self.tone(x / (bar - 1)))
        font.draw(draw, low, self.margin_line, "unsure", QUIET)
        font.draw(draw, high, self.margin_line, "sure", QUIET)
