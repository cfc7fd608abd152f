from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw

from ddlm.generation import Frame, Span, Tile
from ddlm.rendering import THEME_NAMES, RenderingConfig, heat, page
from ddlm.rendering.film import THEMES, Film
from ddlm.rendering.fonts import MONO, SERIF, face
from ddlm.rendering.neon import GREEN, MAGENTA
from ddlm.rendering.storyboard import Mark

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
    return film.theme.paint(replace(film.shots[index], lines=()), film.font_size)


def test_the_themes_that_exist_are_those_that_can_be_chosen():
    assert tuple(THEMES) == THEME_NAMES


def test_an_unknown_theme_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown theme 'sepia'; wanted one of paper, terminal, neon, heat"):
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
    left, top, right, bottom = film.theme.box
    reach = film.theme.px(film.theme.glow_reach) if theme == "neon" else 0
    for index in (0, 4, len(film) - 1):
        box = differs(film[index], without_text(film, index))
        assert box[0] >= left - reach
        assert box[1] >= top - reach
        assert box[2] <= right + reach
        assert box[3] <= bottom + reach


def test_panels_keep_away_from_progress_and_edges(theme, frames_of):
    film = film_of(frames_of(), theme)
    moving = ImageChops.difference(without_text(film, 0), without_text(film, -1))
    box = film.theme.box
    assert moving.crop(box).getbbox() is None
    assert box.left >= 16
    assert box.right <= 480 - 16


def test_the_counter_of_the_terminal_runs_up(frames_of):
    film = film_of(frames_of(steps=8), "terminal", width=960, height=600)
    for step in (0, 3, 8):
        strip = film[step].crop((0, 50, 960, 80))
        expected = Image.new("RGB", (960, 600), (10, 10, 10))
        text = f"(diffusion step {step:03d}/008)"
        face(MONO, 18).draw(ImageDraw.Draw(expected), 32, 70, text, (230, 230, 230))
        assert differs(strip, expected.crop((0, 50, 960, 80))) is None


def test_the_line_of_paper_fills_up(frames_of):
    film = film_of(frames_of(steps=8), "paper")
    line = [count(without_text(film, step).crop(film.theme.line), page.QUIET) for step in range(9)]
    assert line[0] == 0
    assert line == sorted(line)
    assert line[4] * 2 == pytest.approx(line[8], abs=2)
    assert line[8] == film.theme.line.size[0] * film.theme.px(2)


@pytest.mark.parametrize("theme", ["paper", "heat"])
def test_the_margin_says_step_and_share_unmasked(frames_of, theme):
    film = film_of(frames_of(steps=8), theme, width=960, height=600)
    font, line = film.theme.margin_font, film.theme.margin_line
    for index, told in ((0, "0 % unmasked"), (4, f"{int(100 * film.shots[4].moment.share)} % unmasked")):
        expected = Image.new("RGB", (960, 600), page.PAGE)
        font.draw(ImageDraw.Draw(expected), film.theme.box.right - font.length(told), line, told, page.QUIET)
        font.draw(ImageDraw.Draw(expected), film.theme.box.left, line, f"step {index} of 8", page.QUIET)
        for half in ((0, line - 16, 300, line + 6), (660, line - 16, 960, line + 6)):
            assert differs(film[index].crop(half), expected.crop(half)) is None


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


def sure(frames, confidence):
    """The frames with this confidence in all that is new."""
    return [
        replace(frame, spans=tuple(replace(span, confidence=confidence) for span in frame.spans)) for frame in frames
    ]


def test_new_words_have_the_colour_of_their_confidence_and_have_dried_in_the_end(frames_of):
    for confidence, colour in ((0.0, page.SURENESS[0]), (0.5, page.SURENESS[1]), (1.0, page.SURENESS[2])):
        film = film_of(sure(frames_of(ends=0), confidence), "paper", width=960, height=600, font_size=20)
        box = film.theme.box
        assert count(film[4].crop(box), colour, 8) > 20
        assert len(film) == 9 + film.theme.fade_steps
        assert count(film[-1].crop(box), colour, 8) == 0
        assert count(film[-1].crop(box), page.INK, 8) > 200
        assert count(film[-1].crop(box), page.BLOCK) == 0


def test_the_prompt_has_a_tone_of_its_own(frames_of):
    def prompt_pixels(prompt):
        film = film_of(frames_of(prompt=prompt), "paper", width=960, height=600, font_size=20)
        return [count(film[index].crop(film.theme.box), page.PROMPT) for index in (0, 8)]

    assert min(prompt_pixels("It was spring. ")) > 20
    assert prompt_pixels("")[0] == 0


def test_masks_are_blocks_and_become_words(frames_of):
    for theme, block, word in (("paper", page.BLOCK, page.INK), ("terminal", (92, 92, 92), (230, 230, 230))):
        film = film_of(frames_of(), theme, width=960, height=600, font_size=20)
        box = film.theme.box
        blocks = [count(film[index].crop(box), block) for index in range(9)]
        assert blocks == sorted(blocks, reverse=True)
        assert blocks[0] > 5000
        assert blocks[8] < 20, "nothing but shades of letters"
        assert count(film[-1].crop(box), word, 8) > 200


def test_the_map_of_heat_has_a_row_for_each_frame_and_a_column_for_each_token():
    states = [["masked"] * 3, ["masked", "new", "masked"], ["new", "shown", "end"]]
    sureness = [[0, 0, 0], [0, 0.5, 0], [1.0, 0, 0]]
    frames = [
        Frame(step, 2, (), tuple(Tile(7, *pair) for pair in zip(names, values, strict=True)))
        for step, (names, values) in enumerate(zip(states, sureness, strict=True))
    ]
    unknown, masked = heat.NOTHING, heat.MASKED
    assert heat.history(frames) == [[masked] * 3, [masked, 0.5, masked], [1.0, 0.5, unknown]]
    film = film_of(frames, "heat")
    assert film.theme.map.size == (2, 3), "no column for what is never written"
    assert [film.theme.map.getpixel((1, row)) for row in range(3)] == [page.BLOCK, page.SURENESS[1], page.SURENESS[1]]
    assert film.theme.map.getpixel((0, 2)) == page.SURENESS[2]


def test_the_map_of_heat_grows_downwards(frames_of):
    film = film_of(frames_of(steps=8), "heat", width=960, height=600)
    left, top, right, bottom = film.theme.map_box
    untouched = [count(film[index].crop((left, top, right, bottom)), page.PAGE) for index in range(9)]
    assert untouched == sorted(untouched, reverse=True)
    assert untouched[0] > 0.8 * (right - left) * (bottom - top)
    last_row = film[8].crop((left, bottom - 2, right, bottom))
    assert count(last_row, page.SURENESS[2]) > 0.5 * 2 * (right - left)


def test_neon_writes_in_green(frames_of):
    film = film_of(frames_of(), "neon", width=960, height=600, font_size=20)
    assert count(film[-1].crop(film.theme.box), GREEN, 60) > 500


def test_letters_of_neon_glow_beyond_themselves(frames_of):
    film = film_of(frames_of(), "neon", width=960, height=600, font_size=20)
    assert differs(film[-1], without_text(film, -1))[0] < film.theme.box.left


def test_neon_has_scanlines(frames_of):
    film = film_of(frames_of(), "neon", width=960, height=600)
    frame_line = np.asarray(film[0])[50:80, film.theme.header.left].astype(int)
    assert (frame_line[1::2, 1:] < 0.9 * frame_line[::2, 1:]).all()


def test_a_film_shows_the_text_and_nothing_that_nobody_wrote(theme, frames_of):
    film = film_of(frames_of("A fox.", prompt="It was spring. ", ends=0), theme)
    assert film.moments[-1].text == "It was spring. A fox."


@pytest.mark.parametrize("name", THEMES)
def test_what_was_given_has_another_colour_than_what_was_written(frames_of, name):
    theme = film_of(frames_of(), name).theme
    assert len({theme.ink(Mark(state, age=99)) for state in ("prompt", "shown", "masked")}) == 3


def test_a_film_without_any_text_is_drawn(theme, frames_of):
    assert len(film_of(frames_of("", ends=10), theme)) == 9


def test_a_film_of_nothing_needs_no_time_to_dry(theme):
    film = film_of([Frame(0, 1, ()), Frame(1, 1, ())], theme)
    assert len(film) == 2
    assert differs(film[1], without_text(film, 1)) is None or film.moments[1].text


@pytest.mark.parametrize("width", [320, 960])
@pytest.mark.parametrize("name", ["paper", "heat"])
def test_nothing_in_the_margin_overlaps_or_is_cut_off(frames_of, story, name, width):
    film = film_of(frames_of(story * 9, steps=100), name, width=width, height=600, font_size=24)
    lit = [count(film.theme.paint(film.shots[-1], 24).crop((0, 0, 1, 600)), page.PAGE)]
    lit += [count(film.theme.paint(film.shots[-1], 24).crop((width - 1, 0, width, 600)), page.PAGE)]
    assert lit == [600, 600]
    font, line = film.theme.margin_font, film.theme.margin_line
    told = f"step 100 of 100 · page {film.shots[-1].num_pages} of {film.shots[-1].num_pages}"
    expected = Image.new("RGB", (width, 600), page.PAGE)
    font.draw(ImageDraw.Draw(expected), film.theme.box.left, line, told, page.QUIET)
    strip = (0, line - 8, film.theme.box.left + round(font.length(told)) + 4, line + 4)
    assert differs(film[-1].crop(strip), expected.crop(strip)) is None


def test_the_map_of_an_empty_text_is_empty():
    film = film_of([Frame(0, 1, ()), Frame(1, 1, ())], "heat")
    assert count(film[1].crop(film.theme.map_box), page.PAGE) == np.prod(film.theme.map_box.size)


def test_where_words_change_again_only_the_newest_have_a_colour():
    states = [[("Hi", "new", 0.0)], [("Ho", "shown"), ("!", "new", 0.5)], [("Ho!", "shown")]]
    frames = [Frame(step, 2, tuple(Span(*span) for span in spans)) for step, spans in enumerate(states)]
    film = film_of(frames, "heat", width=960, height=600)
    seen = [[count(picture.crop(film.theme.box), colour) > 0 for colour in page.SURENESS] for picture in film]
    assert seen == [[True, False, False], [False, True, False], [False, False, False]]


def test_the_places_of_end_tokens_are_empty_in_the_end(theme, frames_of):
    with_ends, without = (film_of(frames_of(ends=ends), theme) for ends in (12, 0))
    assert with_ends.font_size == without.font_size
    assert differs(with_ends[0], without[0])
    box = without.theme.box
    assert differs(with_ends[-1].crop(box), without[-1].crop(box)) is None


def test_a_broken_word_carries_a_sign(frames_of):
    text = "W" * 200
    film = film_of(frames_of(text), "paper", width=960, height=600, font_size=20)
    box, font = film.theme.box, face(SERIF, 20)
    (piece,) = film.shots[-1].lines[0].pieces
    behind = (box.left + round(font.length(text[: piece.end])) + 1, box.top, box.right, box.top + 30)
    assert differs(film[-1].crop(behind), without_text(film, -1).crop(behind))


def test_a_long_text_has_pages_and_each_is_held_once_it_is_whole(theme, frames_of, story):
    film = film_of(frames_of(story * 9, steps=12), theme, hold_s=3.0)
    turns = [shot.page for shot in film.shots]
    assert turns == sorted(turns), "never back"
    assert {shot.num_pages for shot in film.shots} == {turns[-1] + 1}
    assert turns[-1] >= 2
    held = [shot for shot in film.shots if shot.ms == 3000]
    assert [shot.page for shot in held] == sorted(set(turns))
    for shot in held:
        states = [shot.moment.marks[place].state for line in shot.lines for piece in line.pieces
                  for place in range(piece.start, piece.end)]  # fmt: skip
        assert "masked" not in states
    steps = [shot.moment.step for shot in film.shots]
    assert steps == sorted(steps)


def test_every_word_of_a_long_text_is_on_one_of_its_held_pages(theme, frames_of, story):
    film = film_of(frames_of(story * 9, prompt="It was spring. ", steps=12), theme, hold_s=3.0)
    read = "".join(
        shot.moment.text[piece.start : piece.end]
        for shot in film.shots
        if shot.ms == 3000
        for line in shot.lines
        for piece in line.pieces
    )
    assert "".join((story * 9).split()) in read


def test_the_moments_of_a_sheet_are_spread_from_the_first_picture_to_the_last(theme, frames_of):
    film = film_of(frames_of(steps=8), theme)
    assert film.chosen(3) == [0, 4, len(film) - 1]
    assert film.chosen(2) == [0, len(film) - 1]
    assert film.chosen(60) == [*range(8), len(film) - 1]


@pytest.mark.parametrize("text", ["Mia 😀 met 猫.", "tab\there", "nul \x00 x", "e\u0301 \u200b\u2028 x", "שלום عالم"])
def test_any_character_is_drawn(theme, frames_of, text):
    film = film_of(frames_of(text), theme)
    assert differs(film[8], without_text(film, 8))


def test_a_film_whose_only_frame_is_the_start_can_be_shown(theme):
    film = film_of([Frame(0, 0, (Span("A fox", "prompt"),))], theme)
    assert film.theme.paint(film.shots[0], film.font_size).size == (480, 320)
