import pytest
from PIL import Image

from ddlm.rendering.plots import plot_curve, series

CURVE = """step,train/nll_nats,val/nll_nats,train/lr,train/grad_norm
10,6.5,,0.001,1.2
20,5.25,5.5,0.001,0.9
30,nan,,0.001,0.9
40,4.0,4.5,0.001,0.8
"""


@pytest.fixture
def curve(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text(CURVE)
    return path


def test_a_series_has_the_steps_at_which_it_was_measured(curve):
    assert series(curve, "val/nll_nats") == ([20, 40], [5.5, 4.5])
    steps, values = series(curve, "train/nll_nats")
    assert steps == [10, 20, 30, 40]
    assert values[:2] == [6.5, 5.25]


def test_the_curve_is_a_picture_that_is_the_same_each_time(curve, tmp_path):
    for name in ("one.png", "two.png"):
        plot_curve(curve, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size == (960, 600)
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
        assert {(143, 179, 199), (208, 70, 32)} <= colours, "both lines are drawn"


def test_a_curve_without_validation_is_drawn(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text("step,train/nll_nats,val/nll_nats,train/lr,train/grad_norm\n1,6.0,,0.1,1\n")
    plot_curve(path, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000
