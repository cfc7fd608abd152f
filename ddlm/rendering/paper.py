"""Our own look: a calm page. New words come in a colour that says how sure the model was, and dry to ink."""

from PIL import Image, ImageDraw

from ddlm.rendering.page import BLOCK, INK, PROMPT, QUIET, SURENESS, Page
from ddlm.rendering.storyboard import Mark
from ddlm.rendering.theme import Box, Colour, Shot, mix, ramp


class Paper(Page):
    """Light, typographic; a line in the margin fills up."""

    spacing = 1.65
    fade_steps = 8

    @property
    def box(self) -> Box:
        side = self.px(84)
        return Box(side, self.px(52), self.width - side, self.height - self.px(84))

    @property
    def line(self) -> Box:
        """The line that fills up."""
        top = self.height - self.px(64)
        return Box(self.box.left, top, self.box.right, top + self.px(2))

    def tone(self, confidence: float) -> Colour:
        return ramp(SURENESS, confidence)

    def paint_background(self) -> Image.Image:
        image = super().paint_background()
        ImageDraw.Draw(image).rectangle(self.line.inside, BLOCK)
        return image

    def paint_progress(self, image: Image.Image, shot: Shot) -> None:
        super().paint_progress(image, shot)
        width = round(shot.moment.progress * self.line.size[0])
        if width:
            ImageDraw.Draw(image).rectangle(self.line._replace(right=self.line.left + width).inside, QUIET)

    def ink(self, mark: Mark) -> Colour:
        if mark.state in ("prompt", "sign"):
            return PROMPT
        if mark.state == "masked":
            return BLOCK
        fresh = INK if mark.confidence is None else self.tone(mark.confidence)
        return mix(fresh, INK, (mark.age - 1) / (self.fade_steps - 1))

    def write_block(self, draw: ImageDraw.ImageDraw, box: Box, size: int) -> None:
        draw.rounded_rectangle(box.inside, max(1, size // 6), BLOCK)
