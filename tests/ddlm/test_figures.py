"""The common style of plots: what it promises of files, of sizes at half size, and of eyes that see otherwise."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from ddlm import figures

PROTAN = np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]])
DEUTAN = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]])
"""Linear RGB as eyes without red or green cones see it. Source: Machado, Oliveira and Fernandes, 2009, severity 1."""


def linear(colour):
    values = np.array(to_rgb(colour))
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def drawn(path, points=((1, 2.0), (2, 1.0))):
    with figures.picture(path) as (axes,):
        figures.draw_series(axes, 0, "one", points)
        figures.draw_series(axes, 1, "two", [])
        figures.label(axes, "step", "nats")
    return axes


def test_a_picture_is_a_png_and_an_svg_and_both_are_the_same_each_time(tmp_path):
    for name in ("a.png", "b.png"):
        drawn(tmp_path / name)
    for kind in ("png", "svg"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (880, 495)
        assert "Software" not in image.info
    svg = (tmp_path / "a.svg").read_text()
    assert "<dc:date>" not in svg
    assert "Matplotlib" not in svg


def test_letters_have_eight_pixels_at_half_size(tmp_path):
    axes = drawn(tmp_path / "a.png")
    labels = [axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_legend().get_texts()]
    assert min(text.get_fontsize() for text in labels) * figures.DOTS_PER_INCH / 72 / 2 >= 8


@pytest.mark.parametrize("eye", [np.eye(3), PROTAN, DEUTAN], ids=["all cones", "no red", "no green"])
def test_the_first_colours_stay_apart_for_every_eye(eye):
    seen = [eye @ linear(colour) for colour in figures.COLOURS[:6]]
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 0.12


def test_no_two_series_of_ten_share_colour_or_marker():
    assert len(set(figures.COLOURS)) == len(figures.COLOURS) == len(set(figures.MARKERS))


def test_the_names_of_many_series_stand_beside_the_axes(tmp_path):
    with figures.picture(tmp_path / "a.png") as (axes,):
        for number in range(figures.INSIDE + 1):
            figures.draw_series(axes, number, f"series {number}", [(0, number), (1, number)])
        figures.label(axes, "x", "y")
    axes.figure.draw_without_rendering()
    assert axes.get_legend().get_window_extent().x0 > axes.get_window_extent().x1


def test_values_stand_in_their_order_with_their_intervals(tmp_path):
    with figures.picture(tmp_path / "a.png", height=figures.height_of(2)) as (axes,):
        figures.draw_values(axes, [("first", 1.5, (1.0, 2.0)), ("second", 1.25, None)], "bits")
    assert [text.get_text() for text in axes.get_yticklabels()] == ["first", "second"]
    assert [text.get_text() for text in axes.texts] == ["1.500", "1.250"]
    assert axes.yaxis.get_inverted(), "the first on top"
    assert [line.get_xdata().tolist() if hasattr(line.get_xdata(), "tolist") else list(line.get_xdata())
            for line in axes.lines] == [[1.0, 2.0], [1.5], [1.25]]  # fmt: skip
