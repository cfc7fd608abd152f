"""Our own look: a calm page. New words come in one accent colour and dry to ink."""

from PIL import Image, ImageDraw

from ddlm.rendering.layout import load_font
from ddlm.rendering.storyboard import Mark, Moment
from ddlm.rendering.theme import Box, Colour, Theme, mix

PAGE: Colour = (251, 248, 241)
INK: Colour = (41, 37, 33)
PROMPT: Colour = (30, 93, 128)
ACCENT: Colour = (208, 70, 32)
BLOCK: Colour = (232, 225, 211)
QUIET: Colour = (146, 136, 121)


class Paper(Theme):
    """Light, typographic, one accent."""

    font = "DejaVuSerif"
    spacing = 1.75
    fade_steps = 8

    @property
    def panel(self) -> Box:
        side = self.px(84)
        return Box(side, self.px(64), self.width - side, self.height - self.px(96))

    def paint_background(self) -> Image.Image:
        return Image.new("RGB", (self.width, self.height), PAGE)

    def paint_progress(self, image: Image.Image, moment: Moment) -> None:
        draw, panel = ImageDraw.Draw(image), self.panel
        line, thickness = self.height - self.px(68), self.px(2)
        share = moment.step / moment.num_sampling_steps
        draw.rectangle((panel.left, line, panel.right - 1, line + thickness - 1), BLOCK)
        if moment.step:
            end = panel.left + round(share * panel.size[0])
            draw.rectangle((panel.left, line, end - 1, line + thickness - 1), ACCENT)
        font, baseline = load_font(self.font, max(8, self.px(14))), line + self.px(30)
        draw.text((panel.left, baseline), f"step {moment.step} / {moment.num_sampling_steps}", QUIET, font, anchor="ls")

    def ink(self, mark: Mark) -> Colour:
        if mark.state == "prompt":
            return PROMPT
        if mark.state in ("masked", "sign"):
            return BLOCK if mark.state == "masked" else QUIET
        return mix(ACCENT, INK, mark.age / self.fade_steps)

    def write_block(self, draw: ImageDraw.ImageDraw, box: Box, size: int) -> None:
        draw.rounded_rectangle((box.left, box.top, box.right - 1, box.bottom - 1), max(1, size // 6), BLOCK)
