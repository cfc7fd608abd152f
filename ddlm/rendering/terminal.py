"""A plain terminal: grey on black, two lines of header, a counter."""

from PIL import Image, ImageDraw

from ddlm.rendering.fonts import MONO, face
from ddlm.rendering.storyboard import Mark
from ddlm.rendering.theme import Box, Colour, Shot, Theme

BACKGROUND: Colour = (10, 10, 10)
FOREGROUND: Colour = (230, 230, 230)
PROMPT: Colour = (160, 160, 160)
DIM: Colour = (92, 92, 92)


class Terminal(Theme):
    """The plain screen of S0."""

    typeface = MONO
    spacing = 1.3
    fade_steps = 0
    mount = (38, 38, 38)

    @property
    def box(self) -> Box:
        side = self.px(32)
        return Box(side, self.px(88), self.width - side, self.height - self.px(24))

    def paint_background(self) -> Image.Image:
        image = Image.new("RGB", (self.width, self.height), BACKGROUND)
        self._header(image, 0, "==== ddlm: text by denoising ====")
        return image

    def paint_progress(self, image: Image.Image, shot: Shot) -> None:
        moment = shot.moment
        pages = f" (page {shot.page + 1}/{shot.num_pages})" if shot.num_pages > 1 else ""
        self._header(image, 1, f"(diffusion step {moment.step:03d}/{moment.num_sampling_steps:03d}){pages}")

    def _header(self, image: Image.Image, row: int, text: str) -> None:
        font, baseline = face(MONO, max(8, self.px(18))), self.px(44) + row * self.px(26)
        font.draw(ImageDraw.Draw(image), self.box.left, baseline, text, FOREGROUND)

    def ink(self, mark: Mark) -> Colour:
        if mark.state in ("masked", "sign"):
            return DIM
        return PROMPT if mark.state == "prompt" else FOREGROUND
