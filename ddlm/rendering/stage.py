"""The render stage: a model folder in, a film of one denoising, two stills of it and the training curve out."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from imageio.v3 import imwrite
from PIL import Image

from ddlm.artifacts import Workspace
from ddlm.config import UserError
from ddlm.diffusion import SamplingConfig
from ddlm.generation import DiffusionPipeline, Frame
from ddlm.rendering import RenderingConfig
from ddlm.rendering.film import Film
from ddlm.rendering.gif import write_gif
from ddlm.rendering.plots import plot_curve


def build(workspace: Workspace, *, seed: int, sampling: SamplingConfig, rendering: RenderingConfig) -> None:
    """Write denoising.gif, middle.png, final.png and curve.png."""
    model, output = workspace.inputs["train"], workspace.output
    frames = DiffusionPipeline.from_pretrained(model).frames(rendering.prompt, sampling=sampling, seed=seed)
    film = Film(frames, rendering)
    write_film(film, output / "denoising.gif", rendering)
    write_picture(film.middle, output / "middle.png")
    write_still(film, output / "final.png", rendering)
    plot_curve(model / "curve.csv", output / "curve.png")


def render_file(frames: Sequence[Frame], path: Path, rendering: RenderingConfig) -> None:
    """Write the film (.gif) or its last picture (.png).

    Raises: UserError for another suffix, an unknown theme, a text too long for the picture, or a path that can't be
    written.
    """
    require_suffix(path)
    film = Film(frames, rendering)
    try:
        WRITERS[path.suffix](film, path, rendering)
    except OSError as error:
        raise UserError(
            f"output {path}: can't be written ({error.strerror}); give a path in a folder of yours"
        ) from None


def require_suffix(path: Path) -> None:
    """Raises: UserError for a name that says neither film nor picture."""
    if path.suffix not in WRITERS:
        raise UserError(f"output {path}: wanted a name ending in .gif for the film or .png for its last picture")


def write_film(film: Film, path: Path, rendering: RenderingConfig) -> None:
    """A GIF that repeats for ever and holds the finished text. Same frames, same bytes."""
    write_gif(film, path, frame_ms=rendering.frame_ms, hold_s=rendering.hold_s)


def write_still(film: Film, path: Path, rendering: RenderingConfig) -> None:
    del rendering
    write_picture(film[-1], path)


def write_picture(picture: Image.Image, path: Path) -> None:
    imwrite(path, np.asarray(picture))


WRITERS: dict[str, Callable[[Film, Path, RenderingConfig], None]] = {".gif": write_film, ".png": write_still}
