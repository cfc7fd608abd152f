import numpy as np
import pytest
from PIL import Image

from ddlm.rendering import THEME_NAMES, RenderingConfig
from ddlm.rendering.film import Film
from ddlm.rendering.gif import Palette, write_gif
from ddlm.rendering.paper import ACCENT, PAGE

SMALL = {"width": 480, "height": 320, "font_size": 14}


def durations(path):
    with Image.open(path) as gif:
        times = []
        for index in range(gif.n_frames):
            gif.seek(index)
            times.append(gif.info["duration"])
        return times, gif.info["loop"]


def pixels(picture):
    return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.parametrize("theme", THEME_NAMES)
@pytest.mark.parametrize("ends", [0, 12])
def test_delays_endless_loop_and_hold_read_back(tmp_path, frames_of, theme, ends):
    film = Film(frames_of(ends=ends), RenderingConfig(theme=theme, **SMALL))
    write_gif(film, tmp_path / "film.gif", frame_ms=120, hold_s=2.0)
    assert durations(tmp_path / "film.gif") == ([120] * (len(film) - 1) + [2000], 0)


def test_the_hold_is_never_shorter_than_a_frame(tmp_path, frames_of):
    film = Film(frames_of(), RenderingConfig(theme="terminal", **SMALL))
    write_gif(film, tmp_path / "film.gif", frame_ms=80, hold_s=0.0)
    assert durations(tmp_path / "film.gif") == ([80] * len(film), 0)


@pytest.mark.parametrize("theme", THEME_NAMES)
def test_the_file_shows_the_pictures_in_their_colours(tmp_path, frames_of, theme):
    film = Film(frames_of(prompt="It was spring. "), RenderingConfig(theme=theme, **SMALL))
    write_gif(film, tmp_path / "film.gif", frame_ms=80, hold_s=1.0)
    with Image.open(tmp_path / "film.gif") as gif:
        for index, picture in enumerate(film):
            gif.seek(index)
            error = np.abs(pixels(gif) - pixels(picture))
            assert error.mean() < 1
            assert error.max() < 64


def test_a_rare_accent_keeps_its_colour_and_the_page_is_exact(frames_of):
    picture = Image.effect_noise((400, 400), 40).convert("RGB")
    picture.paste(PAGE, (0, 0, 400, 300))
    picture.putpixel((0, 0), ACCENT)
    shown = pixels(Palette([picture]).apply(picture))
    assert tuple(shown[0, 0]) == ACCENT
    assert (shown[10:300] == PAGE).all()


def test_the_same_film_gives_the_same_bytes(tmp_path, frames_of):
    for name in ("one.gif", "two.gif"):
        write_gif(Film(frames_of(), RenderingConfig(**SMALL)), tmp_path / name, frame_ms=80, hold_s=2.0)
    assert (tmp_path / "one.gif").read_bytes() == (tmp_path / "two.gif").read_bytes()


@pytest.mark.parametrize("frame_ms", [15, 85])
def test_a_delay_that_no_gif_can_keep_is_refused(frame_ms):
    with pytest.raises(ValueError, match=r"greater than or equal to 20|multiple of 10"):
        RenderingConfig(frame_ms=frame_ms)
