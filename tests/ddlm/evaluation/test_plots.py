"""What the pictures of an evaluation show, read from their axes."""

from dataclasses import asdict

import pytest
from matplotlib.figure import Figure

from ddlm.evaluation import plots
from ddlm.evaluation.frontier import Point
from ddlm.generation import Frame, Tile


@pytest.fixture
def axes_of(tmp_path, monkeypatch):
    """Draw, and hand back the axes of the figure that was written."""
    written: list[Figure] = []
    monkeypatch.setattr("ddlm.figures.save", lambda figure, path: written.append(figure))

    def draw(function, content):
        function(content, tmp_path / "a.png")
        return written[-1].axes[0]

    return draw


def test_each_position_of_a_text_has_a_dot_at_the_step_that_wrote_it(axes_of):
    frames = [
        Frame(0, 2, (), (Tile(1, "prompt"), Tile(9, "masked"), Tile(9, "masked"), Tile(0, "end"))),
        Frame(1, 2, (), (Tile(1, "prompt"), Tile(9, "masked"), Tile(5, "new", 0.25))),
        Frame(2, 2, (), (Tile(1, "prompt"), Tile(4, "new", 0.75), Tile(5, "shown"))),
    ]
    (dots,) = axes_of(plots.draw_order, frames).collections
    assert dots.get_offsets().tolist() == [[2, 1], [1, 2]]
    assert dots.get_array().tolist() == [0.25, 0.75]


def test_frames_without_tokens_give_an_empty_plot(axes_of):
    (dots,) = axes_of(plots.draw_order, [Frame(0, 1, ())]).collections
    assert len(dots.get_offsets()) == 0


def test_calibration_stands_beside_the_line_of_one_who_is_right_as_often_as_he_says(axes_of):
    bins = [{"tokens": 30, "confidence": 0.2, "accuracy": 0.1}, {"tokens": 10, "confidence": 0.9, "accuracy": 0.6}]
    axes = axes_of(plots.draw_calibration, {"tokens": 40, "error": 0.15, "bins": bins})
    perfect, model = axes.lines
    assert (list(perfect.get_xdata()), list(perfect.get_ydata())) == ([0, 1], [0, 1])
    assert (list(model.get_xdata()), list(model.get_ydata())) == ([0.2, 0.9], [0.1, 0.6])
    sizes = axes.collections[0].get_sizes()
    assert sizes[0] > sizes[1], "area says how many"


def point(series, perplexity, tokens_per_s, **settings):
    known = {"unmasking": "confidence", "num_sampling_steps": 64, **settings}
    return asdict(Point(series, series, known, perplexity, 4.0, 0.9, 10.0, 64.0, 180.0, tokens_per_s))


def test_latency_shows_what_takes_steps_and_what_it_is_compared_with(axes_of):
    stories = asdict(Point("real stories", "real stories", {}, 8.0, 4.0, 0.9, 10.0, None, 180.0, None))
    points = [
        stories,
        point("random", 30.0, 900.0, num_sampling_steps=16),
        point("random", 20.0, 250.0, num_sampling_steps=64),
        point("random", None, 100.0, num_sampling_steps=128),
        point("top-p 0.9", 12.0, 250.0),
        point("top-p 0.9", 14.0, 250.0),
        point("twin", 9.0, 120.0, unmasking="left_to_right"),
    ]
    axes = axes_of(plots.draw_latency, points)
    curves = {line.get_label(): list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.lines}
    assert set(curves) == {"random", "twin", "real stories"}
    assert curves["random"] == [(900.0, 30.0), (250.0, 20.0)]
    assert curves["real stories"] == [(0, 8.0), (1, 8.0)]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_a_causal_start_is_shaded_and_a_twin_has_none(axes_of):
    start = {"train/autoregressive_nats": [(10, 5.0), (20, 4.0)], "val/nll_nats": [(40, 3.0)]}
    later = axes_of(plots.draw_curve, start | {"train/nll_nats": [(30, 6.0), (40, 5.0)]})
    (span,) = later.patches
    assert (span.get_x(), span.get_width(), span.get_label()) == (0, 20, "causal start")
    assert not axes_of(plots.draw_curve, start | {"train/nll_nats": [(10, 5.0), (20, 4.0)]}).patches


def test_a_long_curve_has_no_markers_and_a_short_one_has(axes_of):
    curve = {"train/nll_nats": [(step, 5.0) for step in range(200)], "val/nll_nats": [(100, 4.0), (199, 3.5)]}
    training, validation = axes_of(plots.draw_curve, curve).lines
    assert training.get_marker() == "None"
    assert validation.get_marker() == "s"
