"""A neon screen: glowing letters on a night gradient under scanlines."""

from functools import cached_property

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from ddlm.rendering.fonts import MONO, MONO_BOLD, face
from ddlm.rendering.storyboard import Mark
from ddlm.rendering.theme import Box, Colour, Shot, Theme, mix

TOP: Colour = (12, 12, 28)
BOTTOM: Colour = (4, 4, 12)
CYAN: Colour = (0, 229, 255)
MAGENTA: Colour = (255, 0, 200)
GREEN: Colour = (57, 255, 20)
ORANGE: Colour = (255, 165, 60)
WHITE: Colour = (240, 255, 240)
GLOW = 1.1
"""How bright the glow is beside its letter."""
SCANLINE = 0.86
"""How bright every second row is."""


class Neon(Theme):
    """The neon screen of S0."""

    typeface = MONO
    spacing = 1.4
    fade_steps = 3
    glow_reach = 16
    mount = (0, 0, 0)

    @property
    def box(self) -> Box:
        side = self.px(56)
        return Box(side, self.px(128), self.width - side, self.height - self.px(46))

    @property
    def header(self) -> Box:
        return Box(self.px(36), self.px(30), self.width - self.px(36), self.px(104))

    @property
    def title_line(self) -> int:
        return self.header.top + self.px(29)

    def ink(self, mark: Mark) -> Colour:
        if mark.state == "prompt":
            return CYAN
        if mark.state in ("masked", "sign"):
            return mix((0, 0, 0), GREEN, 0.28 if mark.state == "masked" else 0.6)
        return mix(WHITE, GREEN, mark.age / self.fade_steps)

    def paint_background(self) -> Image.Image:
        share = np.linspace(0, 1, self.height)[:, None, None]
        rows = np.array(TOP) * (1 - share) + np.array(BOTTOM) * share
        image = Image.fromarray(np.broadcast_to(rows.round(), (self.height, self.width, 3)).astype(np.uint8))
        light = Image.new("RGB", image.size)
        draw = ImageDraw.Draw(light)
        self._corners(draw)
        draw.rounded_rectangle(self.header.inside, self.px(10), outline=CYAN, width=self.px(1.5))
        left = self.header.left + self.px(20)
        face(MONO_BOLD, self.px(18)).draw(draw, left, self.title_line, "DDLM // TEXT BY DENOISING", CYAN)
        return shine(image, light, self.px(6))

    def _corners(self, draw: ImageDraw.ImageDraw) -> None:
        reach, inset, thickness = self.px(25), self.px(12), self.px(3)
        for y, down, colour in ((inset, 1, CYAN), (self.height - 1 - inset, -1, MAGENTA)):
            for x, along in ((inset, 1), (self.width - 1 - inset, -1)):
                draw.line((x, y, x + along * reach, y), colour, thickness)
                draw.line((x, y, x, y + down * reach), colour, thickness)

    def paint_progress(self, image: Image.Image, shot: Shot) -> None:
        box, moment = self.header, shot.moment
        light = Image.new("RGB", box.size)
        draw = ImageDraw.Draw(light)
        self._bar(draw, moment.progress)
        pages = f"PAGE {shot.page + 1}/{shot.num_pages}  " if shot.num_pages > 1 else ""
        counter = f"{pages}STEP {moment.step:03d}/{moment.num_sampling_steps:03d}"
        font = face(MONO, max(8, self.px(16)))
        font.draw(draw, box.size[0] - self.px(20) - font.length(counter), self.title_line - box.top, counter, ORANGE)
        image.paste(shine(image.crop(box), light, self.px(5)), box[:2])

    def _bar(self, draw: ImageDraw.ImageDraw, share: float) -> None:
        """Segments from cyan to magenta; those not reached yet are faint."""
        left, top, bottom = self.px(20), self.px(42), self.px(58)
        segment, gap = self.px(8), self.px(3)
        count = (self.header.size[0] - 2 * left + gap) // (segment + gap)
        for number in range(count):
            colour = mix(CYAN, MAGENTA, number / (count - 1))
            lit = number < round(share * count)
            x = left + number * (segment + gap)
            draw.rectangle((x, top, x + segment - 1, bottom), colour if lit else mix((0, 0, 0), colour, 0.15))

    def paint_text(self, image: Image.Image, shot: Shot, size: int) -> None:
        """Letters are light added to the screen; the glow ends a little outside the panel."""
        text = Image.new("RGB", self.box.size)
        self.write(ImageDraw.Draw(text), shot, size)
        light, reach = ImageOps.expand(text, self.px(self.glow_reach)), self.px(self.glow_reach)
        place = Box(*(edge + by for edge, by in zip(self.box, (-reach, -reach, reach, reach), strict=True)))
        image.paste(shine(image.crop(place), light, self.px(6)), place[:2])

    def paint(self, shot: Shot, size: int) -> Image.Image:
        return ImageChops.multiply(super().paint(shot, size), self.scanlines)

    @cached_property
    def scanlines(self) -> Image.Image:
        rows = np.where(np.arange(self.height) % 2, round(255 * SCANLINE), 255)[:, None, None]
        return Image.fromarray(np.broadcast_to(rows, (self.height, self.width, 3)).astype(np.uint8))


def shine(image: Image.Image, light: Image.Image, radius: int) -> Image.Image:
    """The image with light and its glow added. Blurred at half size: a quarter of the work, the same look."""
    half = light.reduce(2).filter(ImageFilter.BoxBlur(radius / 2)).filter(ImageFilter.BoxBlur(radius / 2))
    glow = half.resize(light.size, Image.Resampling.BILINEAR)
    return ImageChops.screen(ImageChops.add(image, glow.point(lambda value: value * GLOW)), light)
