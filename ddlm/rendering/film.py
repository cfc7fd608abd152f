"""A film: the pictures of one denoising in one theme, and the files they become."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from PIL import Image

from ddlm.config import UserError
from ddlm.generation import Frame
from ddlm.rendering import RenderingConfig, require_theme
from ddlm.rendering.layout import fit
from ddlm.rendering.paper import Paper
from ddlm.rendering.screens import Neon, Terminal
from ddlm.rendering.storyboard import Moment, storyboard
from ddlm.rendering.theme import Theme

THEMES: dict[str, type[Theme]] = {"paper": Paper, "terminal": Terminal, "neon": Neon}
PALETTE_PICTURES = 8
"""So many pictures, spread over the film, decide its 256 colours."""


class Film(Sequence[Image.Image]):
    """Pictures drawn when asked for: one a frame, then those in which the last new words settle."""

    def __init__(self, frames: Sequence[Frame], rendering: RenderingConfig) -> None:
        self.theme = THEMES[require_theme(rendering.theme)](rendering.width, rendering.height)
        moments = [self.theme.script(moment) for moment in storyboard(frames)]
        self.num_frames = len(moments)
        self.moments = [*moments, *(older(moments[-1], by) for by in range(1, self.theme.fade_steps + 1))]
        texts = (moment.text for moment in moments)
        theme = self.theme
        self.font_size = fit(texts, theme.font, rendering.font_size, theme.spacing, theme.panel.size)

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


def render(frames: Sequence[Frame], path: Path, rendering: RenderingConfig) -> None:
    """Write a film or its last picture; the suffix decides. Raises: UserError for an unknown suffix or theme."""
    if path.suffix not in WRITERS:
        raise UserError(f"output {path}: wanted a name that ends in {' or '.join(WRITERS)}; a GIF is the film, a PNG its end")
    WRITERS[path.suffix](frames, path, rendering)


def render_gif(frames: Sequence[Frame], path: Path, rendering: RenderingConfig) -> None:
    """Write the film as a GIF that repeats for ever and holds the finished text. Same frames, same bytes."""
    write_gif(Film(frames, rendering), path, frame_ms=rendering.frame_ms, hold_s=rendering.hold_s)


def render_still(frames: Sequence[Frame], path: Path, rendering: RenderingConfig) -> None:
    """Write the last picture as a PNG."""
    Film(frames, rendering)[-1].save(path, format="PNG")


WRITERS: dict[str, Callable[[Sequence[Frame], Path, RenderingConfig], None]] = {
    ".gif": render_gif,
    ".png": render_still,
}


def write_gif(film: Film, path: Path, *, frame_ms: int, hold_s: float) -> None:
    palette = shared_palette(film)
    first, *rest = (image.quantize(palette=palette, dither=Image.Dither.NONE) for image in film)
    hold_ms = max(frame_ms, round(hold_s * 100) * 10)
    durations = [frame_ms] * (len(film) - 1) + [hold_ms]
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0, optimize=False)


def shared_palette(film: Film) -> Image.Image:
    """One palette for the whole film: colours stay put, and only what moves is written."""
    last = len(film) - 1
    chosen = sorted({round(last * part / (PALETTE_PICTURES - 1)) for part in range(PALETTE_PICTURES)})
    sheet = Image.new("RGB", (film.theme.width, film.theme.height * len(chosen)))
    for row, index in enumerate(chosen):
        sheet.paste(film[index], (0, row * film.theme.height))
    return sheet.quantize(255, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
