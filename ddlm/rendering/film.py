"""A film: the pictures of one denoising in one theme."""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from ddlm.generation import Frame
from ddlm.rendering import RenderingConfig, require_theme
from ddlm.rendering.layout import fit
from ddlm.rendering.paper import Paper
from ddlm.rendering.screens import Neon, Terminal
from ddlm.rendering.storyboard import NEVER, Moment, storyboard
from ddlm.rendering.theme import Theme

THEMES: dict[str, type[Theme]] = {"paper": Paper, "terminal": Terminal, "neon": Neon}


class Film(Sequence[Image.Image]):
    """Pictures drawn when asked for: one a frame, then those in which the last new words settle."""

    def __init__(self, frames: Sequence[Frame], rendering: RenderingConfig) -> None:
        self.theme = THEMES[require_theme(rendering.theme)](rendering.width, rendering.height)
        moments = [self.theme.script(moment) for moment in storyboard(frames)]
        self.num_frames = len(moments)
        fresh = self.theme.fade_steps - youngest(moments[-1])
        self.moments = [*moments, *(older(moments[-1], steps) for steps in range(1, fresh + 1))]
        texts = (moment.text for moment in moments)
        self.font_size = fit(texts, self.theme.font, rendering.font_size, self.theme.spacing, self.theme.panel.size)

    def __len__(self) -> int:
        return len(self.moments)

    def __getitem__(self, index: int) -> Image.Image:  # type: ignore[override]  # slices of a film are not needed
        return self.theme.paint(self.moments[index], self.font_size)

    @property
    def middle(self) -> Image.Image:
        """The picture half way through the denoising."""
        return self[self.num_frames // 2]


def older(moment: Moment, steps: int) -> Moment:
    """The same moment some steps later, nothing having changed but the age of its words."""
    return replace(moment, marks=tuple(mark._replace(age=mark.age + steps) for mark in moment.marks))


def youngest(moment: Moment) -> int:
    """The age of the newest visible character."""
    ages = (mark.age for char, mark in zip(moment.text, moment.marks, strict=True) if not char.isspace())
    return min(ages, default=NEVER)
