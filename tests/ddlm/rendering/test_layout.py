from itertools import pairwise

import pytest

from ddlm.config import UserError
from ddlm.rendering.fonts import SERIF, face
from ddlm.rendering.layout import BREAK_SIGN, Line, Panel, wrap

FONT = face(SERIF, 16)
TEXT = "The hen  looked up.\n\n  A very\tsmall cloud sat on the roof, and it did not want to go home: “Why?” it asked."


def words(text, lines):
    """Words as the lines give them, a broken one joined."""
    joined = "".join(
        "".join(text[piece.start : piece.end] + " " for piece in line.pieces).rstrip() + ("" if line.breaks else " ")
        for line in lines
    )
    return joined.split()


@pytest.mark.parametrize("width", [60, 100, 237, 400, 5000])
def test_no_word_is_lost_and_none_passes_the_edge(width):
    lines = wrap(TEXT, FONT, width)
    assert words(TEXT, lines) == TEXT.split()
    for line in lines:
        for piece in line.pieces:
            assert piece.x + FONT.length(TEXT[piece.start : piece.end]) <= width


def test_only_a_word_wider_than_a_line_is_cut_and_a_sign_has_room_there():
    text = "a " + "z" * 90 + " b"
    lines = wrap(text, FONT, 200)
    assert words(text, lines) == text.split()
    broken = [line for line in lines if line.breaks]
    assert len(broken) == len(lines) - 2
    for line in broken:
        (piece,) = line.pieces
        assert FONT.length(text[piece.start : piece.end] + BREAK_SIGN) <= 200


def test_lines_are_full():
    lines = wrap(TEXT.replace("\n", " "), FONT, 300)
    for line, after in pairwise(lines):
        last, first = line.pieces[-1], after.pieces[0]
        text = TEXT.replace("\n", " ")
        edge = last.x + FONT.length(text[last.start : last.end])
        assert edge + FONT.length(" " + text[first.start : first.end]) > 300


def test_empty_lines_stay():
    assert [len(line.pieces) for line in wrap("one\n\n\ntwo", FONT, 300)] == [1, 0, 0, 1]


def test_a_line_may_end_between_two_masks():
    lines = wrap("█" * 50, FONT, 200)
    assert len(lines) > 1
    assert not any(line.breaks for line in lines)


def test_a_line_may_end_between_two_chinese_characters():
    lines = wrap("你好" * 30, FONT, 200)
    assert len(lines) > 1
    assert not any(line.breaks for line in lines)


PANEL = Panel(600, 300, SERIF, 1.5)


def test_the_font_shrinks_until_the_longest_text_fits():
    short, long = "word", "word " * 110
    assert PANEL.size_for([short], 30) == 30
    size = PANEL.size_for([short, long], 30)
    assert 20 <= size < 30
    assert PANEL.fits(long, size)
    assert not PANEL.fits(long, size + 1)


def test_what_fits_at_no_readable_size_has_pages_in_the_wanted_one():
    text = "word " * 800
    size = PANEL.size_for([text], 30)
    pages = PANEL.pages(text, size, len(text))
    assert size == 30
    assert len(pages) > 3
    assert {len(page) for page in pages[:-1]} == {PANEL.rows(size)}
    assert words(text, [line for page in pages for line in page]) == text.split()


def test_only_what_is_there_in_the_end_gets_pages():
    text = "word " * 30
    (page,) = PANEL.pages(text + "█ " * 2000, 30, len(text))
    assert len(page) == PANEL.rows(30)
    assert words(text + "█ " * 2000, page)[:30] == text.split()


def test_an_empty_text_has_one_page():
    assert PANEL.pages("", 30, 0) == [(Line(()),)]


@pytest.mark.parametrize("panel", [Panel(600, 15, SERIF, 1.5), Panel(12, 300, SERIF, 1.5)])
def test_a_panel_without_room_is_refused_with_the_remedy(panel):
    with pytest.raises(UserError, match=r"too few for two lines; raise rendering\.width or rendering\.height"):
        panel.size_for(["word"], 24)
