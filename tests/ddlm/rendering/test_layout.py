from itertools import pairwise

import pytest

from ddlm.config import UserError
from ddlm.rendering.layout import BREAK_SIGN, fit, line_height, load_font, wrap

FONT = load_font("DejaVuSerif", 16)
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
            assert piece.x + FONT.getlength(TEXT[piece.start : piece.end]) <= width


def test_only_a_word_wider_than_a_line_is_cut_and_a_sign_has_room_there():
    text = "a " + "z" * 90 + " b"
    lines = wrap(text, FONT, 200)
    assert words(text, lines) == text.split()
    broken = [line for line in lines if line.breaks]
    assert len(broken) == len(lines) - 2
    for line in broken:
        (piece,) = line.pieces
        assert FONT.getlength(text[piece.start : piece.end] + BREAK_SIGN) <= 200


def test_lines_are_full():
    lines = wrap(TEXT.replace("\n", " "), FONT, 300)
    for line, after in pairwise(lines):
        last, first = line.pieces[-1], after.pieces[0]
        text = TEXT.replace("\n", " ")
        edge = last.x + FONT.getlength(text[last.start : last.end])
        assert edge + FONT.getlength(" " + text[first.start : first.end]) > 300


def test_empty_lines_stay():
    assert [len(line.pieces) for line in wrap("one\n\n\ntwo", FONT, 300)] == [1, 0, 0, 1]


def test_a_line_may_end_between_two_masks():
    lines = wrap("█" * 50, FONT, 200)
    assert len(lines) > 1
    assert not any(line.breaks for line in lines)


def test_the_font_shrinks_until_the_longest_text_fits():
    short, long = "word", "word " * 300
    assert fit([short], "DejaVuSerif", 30, 1.5, (600, 300)) == 30
    size = fit([short, long], "DejaVuSerif", 30, 1.5, (600, 300))
    assert len(wrap(long, load_font("DejaVuSerif", size), 600)) * line_height(size, 1.5) <= 300
    larger = size + 1
    assert len(wrap(long, load_font("DejaVuSerif", larger), 600)) * line_height(larger, 1.5) > 300


def test_a_text_that_fits_at_no_size_is_refused():
    with pytest.raises(UserError, match=r"does not fit 100x50 pixels even at 4 px; raise rendering\.width"):
        fit(["word " * 400], "DejaVuSerif", 12, 1.5, (100, 50))
