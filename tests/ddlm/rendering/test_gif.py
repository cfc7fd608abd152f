import numpy as np
import pytest
from PIL import Image

from ddlm.rendering import THEME_NAMES, RenderingConfig
from ddlm.rendering.apng import write_apng
from ddlm.rendering.film import Film
from ddlm.rendering.gif import Palette, pack, write_gif
from ddlm.rendering.page import PAGE
from ddlm.rendering.page import SURENESS as ACCENTS

SMALL = {"width": 480, "height": 320, "font_size": 14}


def pixels(picture):
    return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.parametrize("theme", THEME_NAMES)
@pytest.mark.parametrize("write", [write_gif, write_apng])
def test_the_file_shows_the_pictures_in_their_colours(tmp_path, frames_of, theme, write):
    film = Film(frames_of(prompt="It was spring. "), RenderingConfig(theme=theme, **SMALL))
    write(film, tmp_path / "film", film.durations_ms)
    with Image.open(tmp_path / "film") as shown:
        for index, picture in enumerate(film):
            shown.seek(index)
            error = np.abs(pixels(shown) - pixels(picture))
            assert error.mean() < 1
            assert error.max() < 64


def test_a_rare_accent_keeps_its_colour_and_the_page_is_exact(frames_of):
    picture = Image.effect_noise((400, 400), 40).convert("RGB")
    picture.paste(PAGE, (0, 0, 400, 300))
    picture.putpixel((0, 0), ACCENTS[0])
    palette = Palette([picture])
    shown = palette.colours[palette.indexes(pack(picture))]
    assert tuple(shown[0, 0]) == ACCENTS[0]
    assert (shown[10:300] == PAGE).all()


@pytest.mark.parametrize("frame_ms", [15, 85])
def test_a_delay_that_no_gif_can_keep_is_refused(frame_ms):
    with pytest.raises(ValueError, match=r"greater than or equal to 20|multiple of 10"):
        RenderingConfig(frame_ms=frame_ms)
