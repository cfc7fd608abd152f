"""A film as a file: what can be written, by suffix."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from imageio.v2 import get_writer
from PIL import Image

from ddlm.config import UserError
from ddlm.generation import Frame
from ddlm.rendering import RenderingConfig
from ddlm.rendering.apng import write_apng
from ddlm.rendering.film import Film
from ddlm.rendering.gif import write_gif
from ddlm.rendering.names import STILL, require_suffix

SHEET_GAP = 12
"""Pixels between the pictures of a contact sheet, and around them."""


def render_file(frames: Sequence[Frame], path: Path, rendering: RenderingConfig, *, sheet: bool = False) -> int:
    """Write the film, or, as .png, its last picture; sheet: or its contact sheet. Returns how many pictures it has.

    Raises: UserError for another suffix, no frames, an unknown theme, a picture too small for its text, .mp4 without
    ffmpeg, or a path that can't be written.
    """
    require_suffix(path, sheet=sheet)
    film, partial = Film(frames, rendering), path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        partial.touch()
        if sheet:
            write_png(contact_sheet(film, rendering.moments), partial)
        else:
            WRITERS[path.suffix](film, partial)
        partial.replace(path)
        return 1 if path.suffix == STILL else len(film)
    except OSError as error:
        raise UserError(
            f"output {path}: can't be written ({error.strerror or error}); give a path in a folder of yours"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def write_film(film: Film, path: Path) -> None:
    write_gif(film, path, film.durations_ms)


def write_moving_png(film: Film, path: Path) -> None:
    write_apng(film, path, film.durations_ms)


def write_webp(film: Film, path: Path) -> None:
    first, *rest = film
    first.save(
        path, format="WEBP", save_all=True, append_images=rest, duration=film.durations_ms, loop=0, quality=75, method=2
    )


def write_mp4(film: Film, path: Path) -> None:
    """Pictures at one pace: one that is shown longer comes several times. Players want an even width and height."""
    pace_ms = math.gcd(*film.durations_ms)
    even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"]
    same_bytes = ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
    writer: Any = get_writer(
        path, format="FFMPEG", mode="I", fps=1000 / pace_ms, codec="libx264", quality=None, macro_block_size=1,
        output_params=["-crf", "22", "-preset", "veryfast", "-movflags", "+faststart", *even, *same_bytes],
    )  # fmt: skip
    with writer as video:
        for picture, ms in zip(film, film.durations_ms, strict=True):
            pixels = np.asarray(picture)
            for _ in range(ms // pace_ms):
                video.append_data(pixels)


def write_still(film: Film, path: Path) -> None:
    write_png(film[-1], path)


def write_png(picture: Image.Image, path: Path) -> None:
    picture.save(path, format="PNG")


WRITERS: dict[str, Callable[[Film, Path], None]] = {
    ".gif": write_film,
    ".apng": write_moving_png,
    ".webp": write_webp,
    ".mp4": write_mp4,
    ".png": write_still,
}


def contact_sheet(film: Film, count: int) -> Image.Image:
    """`count` moments of the film at half size, left to right and downwards, from the first state to the last."""
    places = film.chosen(count)
    columns = math.ceil(math.sqrt(len(places)))
    width, height = film.theme.width // 2, film.theme.height // 2
    rows = math.ceil(len(places) / columns)
    size = (columns * (width + SHEET_GAP) + SHEET_GAP, rows * (height + SHEET_GAP) + SHEET_GAP)
    sheet = Image.new("RGB", size, film.theme.mount)
    for number, place in enumerate(places):
        row, column = divmod(number, columns)
        small = film[place].resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(small, (SHEET_GAP + column * (width + SHEET_GAP), SHEET_GAP + row * (height + SHEET_GAP)))
    return sheet
