"""Sweeps of a tiny model before a tiny judge, and what their plot shows."""

import json
from dataclasses import asdict, replace
from itertools import pairwise

import pytest

pytest.importorskip("transformers")

from matplotlib.text import Text
from PIL import Image

from ddlm.diffusion import SamplingConfig
from ddlm.evaluation import BUDGETS, frontier
from ddlm.evaluation.frontier import Arm, Point
from ddlm.evaluation.judge import Judge
from ddlm.evaluation.text import distinct
from ddlm.generation import DiffusionPipeline

BASE = SamplingConfig(num_sampling_steps=8)


@pytest.fixture(scope="module")
def pipeline(tiny_model):
    return DiffusionPipeline.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def judge(judge_folder):
    return Judge.load(judge_folder)


@pytest.fixture(scope="module")
def points(pipeline, judge):
    arms = [Arm("confidence", f"{steps} steps", frontier.changed(BASE, num_sampling_steps=steps)) for steps in (2, 4)]
    return frontier.sweep(pipeline, judge, arms, num_samples=3, seed=1, rows_at_once=2)


def test_a_point_is_what_the_pipeline_writes_as_the_judge_sees_it(pipeline, judge, points):
    settings = frontier.changed(BASE, num_sampling_steps=4)
    made = pipeline.generate(num_samples=3, sampling=settings, seed=1, rows_at_once=2)
    texts = [sample.text for sample in made.samples]
    judged = judge.score(texts)
    point = points[1]
    assert (point.series, point.name) == ("confidence", "4 steps")
    assert point.perplexity == pytest.approx(judged.perplexity)
    assert point.entropy_nats == pytest.approx(judged.entropy_nats)
    assert point.tokens == judged.tokens / 3
    assert point.distinct_2 == distinct(texts, 2)
    assert point.settings == settings.keyed()
    assert point.tokens_per_s > 0


def test_runs_of_the_network_are_those_of_one_batch(points):
    assert [point.calls_per_text for point in points] == [2, 4]


def test_points_come_back_from_json(points, judge):
    stories = frontier.of_texts("real stories", "real stories", ["The fox ran."], judge)
    for point in [*points, stories]:
        assert Point(**json.loads(json.dumps(asdict(point)))) == point
    assert (stories.settings, stories.calls_per_text) == ({}, None)


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_default_arms_have_every_temperature_and_every_policy(budget):
    base = SamplingConfig(unmasking="threshold", threshold=0.5, most_per_step=3)
    arms, grid = frontier.default_arms(base, budget), frontier.GRIDS[budget]
    pairs = {(arm.sampling.temperature, arm.sampling.top_p) for arm in arms if arm.sampling.threshold == 0.5}
    assert pairs == {(temperature, top_p) for temperature in grid.temperatures for top_p in grid.top_ps}
    steps = {(arm.series, arm.sampling.num_sampling_steps) for arm in arms if arm.sampling.threshold is None}
    assert steps == {(policy, number) for policy in frontier.POLICIES for number in grid.steps}
    assert len({(arm.series, arm.name) for arm in arms}) == len(arms)


def test_a_named_temperature_sweep_is_one_series_at_the_top_p_of_its_base():
    arms = frontier.temperature_arms(BASE, "standard", "autoregressive")
    assert [arm.series for arm in arms] == ["autoregressive"] * 3
    assert [arm.sampling.temperature for arm in arms] == [0.6, 0.8, 1.0]
    assert {arm.sampling.top_p for arm in arms} == {BASE.top_p}


def test_changed_settings_keep_their_rules():
    with pytest.raises(ValueError, match="threshold is for unmasking"):
        frontier.changed(SamplingConfig(unmasking="threshold", threshold=0.5), unmasking="random")


def curve(series, perplexities, entropies, calls, **varying):
    """Points of a series; `varying` names one setting and its values."""
    ((setting, values),) = varying.items()
    plain = {"temperature": 0.8, "num_sampling_steps": 64, "unmasking": "confidence", "top_p": 0.95}
    return [
        Point(str(value), series, {**plain, setting: value}, perplexity, entropy, 0.8, 9.0, count, 150.0, 1e3)
        for value, perplexity, entropy, count in zip(values, perplexities, entropies, calls, strict=True)
    ]


@pytest.fixture
def drawn_points():
    """A sweep whose curves end close together, with a twin, and an arm that wrote nothing."""
    heats, steps = (0.6, 0.8, 1.0), (16, 32, 64, 128)
    stories = Point("real stories", "real stories", {}, 3.4, 4.25, 0.9, 10.0, None, 180.0, None)
    twin = curve("autoregressive", (3.3, 4.1, 6.5), (4.0, 4.15, 4.35), (190, 201, 214), temperature=heats)
    top_ps = [
        curve(
            f"top-p {top_p}", (low, low * 1.4, low * 2.4), (3.7, 3.9, 4.1 + top_p / 9), (64, 64, 64), temperature=heats
        )
        for top_p, low in ((0.9, 5.0), (0.95, 5.1), (1.0, 5.3))
    ]
    policies = [
        curve(policy, (9 + 5 * i, 8 + 2 * i, 7 + i / 2, 7 + i / 50), (4.0,) * 4, steps, num_sampling_steps=steps)
        for i, policy in enumerate(frontier.POLICIES)
    ]
    empty = replace(stories, series="nothing", perplexity=None, entropy_nats=None)
    plain = [replace(point, settings=point.settings | {"unmasking": "left_to_right"}) for point in twin]
    return [stories, empty, *plain, *(point for series in (*top_ps, *policies) for point in series)]


def labels_of(axes):
    return [label.get_text() for label in axes.texts]


def test_each_series_stands_where_what_it_trades_is_shown(drawn_points):
    left, right = frontier.draw(drawn_points).axes
    both = {"real stories", "autoregressive"}
    assert set(labels_of(left)) == both | {"top-p 0.9", "top-p 0.95", "top-p 1.0"}
    assert set(labels_of(right)) == both | set(frontier.POLICIES)
    colours = {line.get_label(): line.get_color() for axes in (left, right) for line in axes.lines}
    written = set(labels_of(left) + labels_of(right)) - {"real stories"}
    assert len({colours[series] for series in written}) == len(written)


def test_a_curve_goes_through_its_points_in_order(drawn_points):
    left, right = frontier.draw(drawn_points).axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in left.lines}
    assert curves["autoregressive"] == [[4.0, 3.3], [4.15, 4.1], [4.35, 6.5]]
    assert curves["real stories"] == [[4.25, 3.4]]
    curves = {line.get_label(): line.get_xydata().tolist() for line in right.lines}
    assert curves["random"] == [[16, 9], [32, 8], [64, 7], [128, 7]]


def test_no_two_labels_overlap(drawn_points):
    figure = frontier.draw(drawn_points)
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = sorted((Text.get_window_extent(label).intervaly.tolist()) for label in axes.texts)  # without its line
        assert all(below[1] <= above[0] for below, above in pairwise(boxes))
        assert len(boxes) >= 5


def test_an_axis_of_many_decades_has_few_marks(drawn_points):
    wild = [replace(point, perplexity=point.perplexity and point.perplexity**6) for point in drawn_points]
    for points, marks in (
        (drawn_points, [3, 4, 5, 7, 10, 15, 20, 30, 40]),
        (wild, [10.0**power for power in range(3, 10)]),
    ):
        axes = frontier.draw(points).axes[0]
        low, high = axes.get_ylim()
        assert [tick for tick in axes.get_yticks() if low <= tick <= high] == pytest.approx(marks)


def test_the_picture_is_readable_at_a_thousand_pixels_and_repeatable(drawn_points, points, tmp_path):
    for name, drawn in {"a": drawn_points, "b": drawn_points, "measured": points, "none": []}.items():
        frontier.plot(drawn, tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size == (1100, 528)
            assert "Software" not in image.info
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_labels_are_pushed_apart_around_their_middle_and_stay_inside():
    assert frontier.spread([], 0.1) == []
    assert frontier.spread([0.1, 0.5], 0.1) == pytest.approx([0.1, 0.5])
    assert frontier.spread([0.5, 0.5, 0.5, 0.9], 0.1) == pytest.approx([0.4, 0.5, 0.6, 0.9])
    assert frontier.spread([0.98, 0.99], 0.1) == pytest.approx([0.85, 0.95])
    assert frontier.spread([0.0, 0.02], 0.1) == pytest.approx([0.0, 0.1])
