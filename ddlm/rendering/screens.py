"""Screens: a plain terminal and a neon one."""

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from ddlm.rendering.layout import load_font
from ddlm.rendering.storyboard import Mark, Moment
from ddlm.rendering.theme import Box, Colour, Theme, as_dialogue, mix

MONO = "DejaVuSansMono"


class Terminal(Theme):
    """Grey on black, header lines, a counter."""

    font = MONO
    spacing = 1.3
    fade_steps = 0
    background_colour: Colour = (10, 10, 10)
    foreground: Colour = (230, 230, 230)
    dim: Colour = (92, 92, 92)

    @property
    def panel(self) -> Box:
        side = self.px(32)
        return Box(side, self.px(104), self.width - side, self.height - self.px(24))

    def paint_background(self) -> Image.Image:
        image = Image.new("RGB", (self.width, self.height), self.background_colour)
        self._header(image, 0, "==== ddlm: text by denoising ====")
        return image

    def paint_progress(self, image: Image.Image, moment: Moment) -> None:
        self._header(image, 1, f"(diffusion step {moment.step:03d}/{moment.num_sampling_steps:03d})")

    def _header(self, image: Image.Image, row: int, text: str) -> None:
        font, baseline = load_font(MONO, max(8, self.px(18))), self.px(44) + row * self.px(26)
        ImageDraw.Draw(image).text((self.panel.left, baseline), text, self.foreground, font, anchor="ls")

    def script(self, moment: Moment) -> Moment:
        return as_dialogue(moment, "[You]:", "[Assistant]:")

    def ink(self, mark: Mark) -> Colour:
        return self.dim if mark.state in ("masked", "sign") else self.foreground


CYAN: Colour = (0, 229, 255)
MAGENTA: Colour = (255, 0, 200)
GREEN: Colour = (57, 255, 20)
ORANGE: Colour = (255, 165, 60)
WHITE: Colour = (240, 255, 240)
GLOW = 1.1
"""How bright the glow is beside its letter."""


class Neon(Theme):
    """Glowing letters on a night gradient under scanlines."""

    font = MONO
    spacing = 1.4
    fade_steps = 3
    glow_reach = 16

    @property
    def panel(self) -> Box:
        side = self.px(56)
        return Box(side, self.px(142), self.width - side, self.height - self.px(52))

    @property
    def header(self) -> Box:
        return Box(self.px(36), self.px(30), self.width - self.px(36), self.px(104))

    @property
    def title_line(self) -> int:
        return self.header.top + self.px(29)

    def script(self, moment: Moment) -> Moment:
        return as_dialogue(moment, "▶ USER", "◀ ASSISTANT")

    def ink(self, mark: Mark) -> Colour:
        if mark.state in ("prompt", "label"):
            return CYAN
        if mark.state in ("masked", "sign"):
            return mix((0, 0, 0), GREEN, 0.28 if mark.state == "masked" else 0.6)
        return mix(WHITE, GREEN, mark.age / self.fade_steps)

    def paint_background(self) -> Image.Image:
        share = np.linspace(0, 1, self.height)[:, None, None]
        rows = np.array((12, 12, 28)) * (1 - share) + np.array((4, 4, 12)) * share
        image = Image.fromarray(np.broadcast_to(rows.round(), (self.height, self.width, 3)).astype(np.uint8))
        light = Image.new("RGB", image.size)
        draw = ImageDraw.Draw(light)
        self._corners(draw)
        draw.rounded_rectangle(_inclusive(self.header), self.px(10), outline=CYAN, width=self.px(1.5))
        title, place = load_font("DejaVuSansMono-Bold", self.px(18)), (self.header.left + self.px(20), self.title_line)
        draw.text(place, "DDLM // TEXT BY DENOISING", CYAN, title, anchor="ls")
        return shine(image, light, self.px(6))

    def _corners(self, draw: ImageDraw.ImageDraw) -> None:
        reach, inset, thickness = self.px(25), self.px(12), self.px(3)
        for y, down, colour in ((inset, 1, CYAN), (self.height - 1 - inset, -1, MAGENTA)):
            for x, along in ((inset, 1), (self.width - 1 - inset, -1)):
                draw.line((x, y, x + along * reach, y), colour, thickness)
                draw.line((x, y, x, y + down * reach), colour, thickness)

    def paint_progress(self, image: Image.Image, moment: Moment) -> None:
        box = self.header
        light = Image.new("RGB", box.size)
        draw = ImageDraw.Draw(light)
        self._bar(draw, moment.step / moment.num_sampling_steps)
        counter = f"STEP {moment.step:03d}/{moment.num_sampling_steps:03d}"
        place = (box.size[0] - self.px(20), self.title_line - box.top)
        draw.text(place, counter, ORANGE, load_font(MONO, max(8, self.px(16))), anchor="rs")
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

    def paint_text(self, image: Image.Image, moment: Moment, size: int) -> None:
        """Letters are light added to the screen; the glow ends a little outside the panel."""
        text = Image.new("RGB", self.panel.size)
        self.write(ImageDraw.Draw(text), moment, size)
        light, reach = ImageOps.expand(text, self.px(self.glow_reach)), self.px(self.glow_reach)
        place = Box(*(edge + by for edge, by in zip(self.panel, (-reach, -reach, reach, reach), strict=True)))
        image.paste(shine(image.crop(place), light, self.px(6)), place[:2])

    def paint(self, moment: Moment, size: int) -> Image.Image:
        pixels = np.array(super().paint(moment, size))
        pixels[1::2] = pixels[1::2] * 0.86
        return Image.fromarray(pixels)


def shine(image: Image.Image, light: Image.Image, radius: int) -> Image.Image:
    """The image with light and its glow added. Blurred at half size: a quarter of the work, the same look."""
    half = light.reduce(2).filter(ImageFilter.BoxBlur(radius / 2)).filter(ImageFilter.BoxBlur(radius / 2))
    glow = half.resize(light.size, Image.Resampling.BILINEAR)
    return ImageChops.screen(ImageChops.add(image, glow.point(lambda value: value * GLOW)), light)


def _inclusive(box: Box) -> tuple[int, int, int, int]:
    return box.left, box.top, box.right - 1, box.bottom - 1
