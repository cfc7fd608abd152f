import numpy as np
import pytest
from PIL import Image, ImageDraw

from ddlm.rendering.fonts import CHAINS, MONO, SERIF, covered, face, find, font_number


def drawn(font, text, width=400, height=60):
    image = Image.new("RGB", (width, height))
    font.draw(ImageDraw.Draw(image), 10, 40, text, (255, 255, 255))
    return image


def ink(image):
    return int((np.asarray(image) > 100).any(-1).sum())


@pytest.mark.parametrize("name", [font for chain in CHAINS.values() for font in chain])
def test_every_font_comes_with_a_package_and_none_from_the_machine(name):
    assert "site-packages" in str(find(name)) or "ddlm/rendering/typefaces" in str(find(name))


def test_our_own_font_stands_beside_its_licence():
    assert "SIL OPEN FONT LICENSE Version 1.1" in find(SERIF).with_name("OFL.txt").read_text()


@pytest.mark.parametrize(("char", "number"), [("a", 0), ("ж", 0), ("ש", 2), ("😀", 2), ("猫", None), ("🐶", None)])
def test_another_font_steps_in_for_what_the_first_one_lacks(char, number):
    assert font_number(SERIF, char) == number


@pytest.mark.parametrize("name", [SERIF, MONO])
def test_a_character_that_no_font_has_is_a_box(name):
    font = face(name, 24)
    box = drawn(font, "猫")
    left, top, right, bottom = box.getbbox()
    assert 20 <= right - left <= 30
    assert 15 <= bottom - top <= 20
    middle = box.crop((left + 3, top + 3, right - 3, bottom - 3))
    assert middle.getbbox() is None, "its inside is empty"
    assert ink(box) > 60


@pytest.mark.parametrize("text", ["plain", "猫 and 😀🐶", "a\u200db", "e\u0301", "שלום"])
@pytest.mark.parametrize("name", [SERIF, MONO])
def test_a_text_is_as_long_as_it_is_drawn(name, text):
    font = face(name, 24)
    whole = drawn(font, text + "|").getbbox()
    assert whole[2] == pytest.approx(10 + font.length(text) + font.length("|") / 2, abs=font.length("|") / 2 + 1)


def test_characters_without_width_and_glyph_leave_no_trace():
    font = face(MONO, 24)
    assert drawn(font, "a\ufe0f\U000e0041b").tobytes() == drawn(font, "ab").tobytes()
    assert font.length("a\ufe0fb") == font.length("ab")


def test_the_sign_of_a_mask_is_in_every_first_font_or_never_drawn():
    assert ord("█") in covered(MONO)
