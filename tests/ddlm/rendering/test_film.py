from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw

from ddlm.config import UserError
from ddlm.generation import Frame
from ddlm.rendering import THEME_NAMES, RenderingConfig, paper
from ddlm.rendering.film import THEMES, Film
from ddlm.rendering.layout import load_font, wrap
from ddlm.rendering.screens import GREEN, MAGENTA, MONO

SMALL = {"width": 480, "height": 320, "font_size": 14}


@pytest.fixture(params=THEME_NAMES)
def theme(request):
    return request.param


def film_of(frames, theme, **changes):
    return Film(frames, RenderingConfig(theme=theme, **{**SMALL, **changes}))


def count(picture, colour, tolerance=0):
    return int((np.abs(np.asarray(picture).astype(int) - colour).max(-1) <= tolerance).sum())


def differs(one, other):
    return ImageChops.difference(one, other).getbbox()


def without_text(film, index):
    """The same picture of an empty text."""
    return film.theme.paint(replace(film.moments[index], text="", marks=()), film.font_size)


def test_the_themes_that_exist_are_those_that_can_be_chosen():
    assert tuple(THEMES) == THEME_NAMES


def test_an_unknown_theme_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown theme 'sepia'; wanted one of paper, terminal, neon"):
        RenderingConfig(theme="sepia")


def test_every_frame_is_drawn_and_no_two_alike(theme, frames_of):
    frames = frames_of(prompt="It was spring. ")
    pictures = list(film_of(frames, theme))
    assert len(pictures) >= len(frames)
    assert {picture.size for picture in pictures} == {(480, 320)}
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


@pytest.mark.parametrize("size", [(480, 320), (900, 280), (320, 720)])
def test_text_stays_in_its_panel(theme, frames_of, story, size):
    text = f"{story} {'very' * 60}\n{story}\n\n{story}"
    film = film_of(frames_of(text, prompt="W" * 90, ends=40), theme, width=size[0], height=size[1], font_size=30)
    left, top, right, bottom = film.theme.panel
    reach = film.theme.px(film.theme.glow_reach) if theme == "neon" else 0
    for index in (0, 4, len(film) - 1):
        box = differs(film[index], without_text(film, index))
        assert box[0] >= left - reach
        assert box[1] >= top - reach
        assert box[2] <= right + reach
        assert box[3] <= bottom + reach


def test_panels_keep_away_from_progress_and_edges(theme, frames_of):
    film = film_of(frames_of(), theme)
    empty, full = without_text(film, 0), without_text(film, len(film) - 1)
    moving = differs(empty, full)
    panel = film.theme.panel
    assert moving[3] <= panel.top or moving[1] >= panel.bottom
    assert panel.left >= 16
    assert panel.right <= 480 - 16


def test_the_counter_of_the_terminal_runs_up(frames_of):
    film = film_of(frames_of(steps=8), "terminal", width=960, height=600)
    for step in (0, 3, 8):
        strip = film[step].crop((0, 50, 960, 80))
        expected = Image.new("RGB", (960, 600), (10, 10, 10))
        text = f"(diffusion step {step:03d}/008)"
        ImageDraw.Draw(expected).text((32, 70), text, (230, 230, 230), load_font(MONO, 18), anchor="ls")
        assert differs(strip, expected.crop((0, 50, 960, 80))) is None


def test_the_line_of_paper_fills_up(frames_of):
    film = film_of(frames_of(steps=8), "paper")
    line = [count(without_text(film, step), paper.ACCENT) for step in range(9)]
    assert line[0] == 0
    assert line == sorted(line)
    assert line[4] * 2 == pytest.approx(line[8], abs=2)
    assert line[8] == film.theme.panel.size[0] * film.theme.px(2)


def test_the_segments_of_neon_fill_up_from_cyan_to_magenta(frames_of):
    film = film_of(frames_of(steps=8), "neon", width=960, height=600)
    bright = [
        int((np.asarray(without_text(film, step).crop((50, 70, 910, 90))).max(-1) > 200).sum()) for step in range(9)
    ]
    assert bright == sorted(bright)
    assert bright[0] == 0
    assert bright[4] * 2 == pytest.approx(bright[8], rel=0.05)
    right_end = without_text(film, 8).crop((850, 70, 910, 90))
    assert count(right_end, MAGENTA, 40) > count(without_text(film, 7).crop((850, 70, 910, 90)), MAGENTA, 40)


def test_new_words_stand_out_on_paper_and_have_dried_in_the_end(frames_of):
    film = film_of(frames_of(ends=0), "paper", width=960, height=600, font_size=20)
    panel = film.theme.panel
    assert count(film[4].crop(panel), paper.ACCENT, 8) > 20
    assert len(film) == 9 + film.theme.fade_steps
    assert count(film[-1].crop(panel), paper.ACCENT, 8) == 0
    assert count(film[-1].crop(panel), paper.INK, 8) > 200
    assert count(film[-1].crop(panel), paper.BLOCK) == 0


def test_the_prompt_has_a_tone_of_its_own(frames_of):
    def prompt_pixels(prompt):
        film = film_of(frames_of(prompt=prompt), "paper", width=960, height=600, font_size=20)
        return [count(film[index], paper.PROMPT, 8) for index in (0, 8)]

    assert min(prompt_pixels("It was spring. ")) > 20
    assert max(prompt_pixels("")) == 0


def test_masks_are_blocks_and_become_words(frames_of):
    for theme, block, word in (("paper", paper.BLOCK, paper.INK), ("terminal", (92, 92, 92), (230, 230, 230))):
        film = film_of(frames_of(), theme, width=960, height=600, font_size=20)
        panel = film.theme.panel
        blocks = [count(film[index].crop(panel), block) for index in range(9)]
        assert blocks == sorted(blocks, reverse=True)
        assert blocks[0] > 5000
        assert blocks[8] < 20, "nothing but shades of letters"
        assert count(film[-1].crop(panel), word, 8) > 200


def test_neon_writes_in_green(frames_of):
    film = film_of(frames_of(), "neon", width=960, height=600, font_size=20)
    assert count(film[-1].crop(film.theme.panel), GREEN, 60) > 500


def test_letters_of_neon_glow_beyond_themselves(frames_of):
    film = film_of(frames_of(), "neon", width=960, height=600, font_size=20)
    assert differs(film[-1], without_text(film, -1))[0] < film.theme.panel.left


def test_neon_has_scanlines(frames_of):
    film = film_of(frames_of(), "neon", width=960, height=600)
    frame_line = np.asarray(film[0])[50:80, film.theme.header.left].astype(int)
    assert (frame_line[1::2, 1:] < 0.9 * frame_line[::2, 1:]).all()


def test_screens_show_the_prompt_and_the_answer_as_two_voices(frames_of):
    for theme, user, writer in (("terminal", "[You]:", "[Assistant]:"), ("neon", "▶ USER", "◀ ASSISTANT")):
        film = film_of(frames_of("A fox.", prompt="It was spring. ", ends=0), theme)
        assert film.moments[-1].text == f"{user}\nIt was spring. \n\n{writer}\nA fox."
        film = film_of(frames_of("A fox.", ends=0), theme)
        assert film.moments[-1].text == f"{writer}\nA fox."


def test_a_film_without_any_text_is_drawn(theme, frames_of):
    assert len(film_of(frames_of("", ends=10), theme)) == 9


def test_a_film_of_nothing_needs_no_time_to_dry():
    assert len(film_of([Frame(0, 1, ()), Frame(1, 1, ())], "paper")) == 2


def test_the_places_of_end_tokens_are_empty_in_the_end(theme, frames_of):
    with_ends, without = (film_of(frames_of(ends=ends), theme) for ends in (12, 0))
    assert with_ends.font_size == without.font_size
    assert differs(with_ends[0], without[0])
    assert differs(with_ends[-1], without[-1]) is None


def test_a_broken_word_carries_a_sign(frames_of):
    text = "W" * 200
    film = film_of(frames_of(text), "paper", width=960, height=600, font_size=20)
    panel, font = film.theme.panel, load_font("DejaVuSerif", 20)
    (piece,) = wrap(text, font, panel.size[0])[0].pieces
    behind = (panel.left + round(font.getlength(text[: piece.end])) + 1, panel.top, panel.right, panel.top + 35)
    assert differs(film[-1].crop(behind), without_text(film, -1).crop(behind))


def test_a_text_too_long_for_its_picture_is_refused_with_the_remedy(frames_of, story):
    with pytest.raises(UserError, match=r"raise rendering\.width or rendering\.height"):
        film_of(frames_of(story * 40), "paper", width=320, height=240)


@pytest.mark.parametrize("text", ["Mia 😀 met 猫.", "tab\there", "nul \x00 x", "e\u0301 \u200b\u2028 x", "שלום عالم"])
def test_any_character_is_drawn(theme, frames_of, text):
    film = film_of(frames_of(text), theme)
    assert differs(film[8], without_text(film, 8))
