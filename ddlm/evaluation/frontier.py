"""What can be had from one model: quality against variety, and against the cost of writing.

A single number of quality can be bought with variety (a lower temperature) or with time (more steps). A sweep over both
shows what is on sale.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ddlm.diffusion import SAMPLING_PARAMETERS, SamplingConfig
from ddlm.evaluation.judge import Judge
from ddlm.evaluation.text import distinct, self_bleu
from ddlm.figures import COLOURS, INK, MARKERS, STYLE, save
from ddlm.generation import DiffusionPipeline

POLICIES = ("random", "confidence", "margin", "threshold", "entropy_bound", "remdm_loop")
TICKS = ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,))
"""Marks in each decade of perplexity: many on a short axis, few on a long one."""
LABEL_GAP = 0.052
"""The least distance between two labels, as a share of the height of the axes."""


class Arm(NamedTuple):
    """One way of writing; the arms of a series become one curve, in their order."""

    series: str
    name: str
    sampling: SamplingConfig


@dataclass(frozen=True)
class Grid:
    """What a budget sweeps over."""

    temperatures: tuple[float, ...]
    top_ps: tuple[float, ...]
    steps: tuple[int, ...]


GRIDS = {
    "quick": Grid(temperatures=(0.6, 1.0), top_ps=(0.95,), steps=(16, 64)),
    "standard": Grid(temperatures=(0.6, 0.8, 1.0), top_ps=(0.9, 0.95, 1.0), steps=(16, 32, 64, 128)),
    "full": Grid(temperatures=(0.5, 0.6, 0.7, 0.8, 0.9, 1.0), top_ps=(0.9, 0.95, 1.0), steps=(8, 16, 32, 64, 128, 256)),
}
"""By the names of `ddlm evaluate --budget`."""


@dataclass(frozen=True)
class Point:
    """What one way of writing gives, and costs. Without settings: real stories, which cost nothing.

    perplexity, entropy_nats: as the judge says; None where all texts are empty. tokens: the judge's, mean of a text as
    far as its context goes. calls_per_text: runs of the network that a text takes, in a batch or not.
    tokens_per_s: the model's tokens, over all texts of a batch.
    """

    name: str
    series: str
    settings: dict[str, Any]
    perplexity: float | None
    entropy_nats: float | None
    distinct_2: float
    self_bleu: float
    calls_per_text: float | None
    tokens: float
    tokens_per_s: float | None


def temperature_arms(base: SamplingConfig, budget: str, series: str | None = None) -> list[Arm]:
    """Temperature × top-p, a series for each top-p; where `series` names one, temperatures alone, at the base's top-p.

    The latter suits a model that is set beside another: its autoregressive twin, for example.
    """
    grid = GRIDS[budget]
    curves = {series: base.top_p} if series else {f"top-p {top_p:g}": top_p for top_p in grid.top_ps}
    return [
        Arm(name, f"temperature {temperature:g}", changed(base, temperature=temperature, top_p=top_p))
        for name, top_p in curves.items()
        for temperature in grid.temperatures
    ]


def step_arms(base: SamplingConfig, budget: str) -> list[Arm]:
    """Steps × unmasking policies, a series for each policy, with its own parameters at their defaults."""
    plain = dict.fromkeys(SAMPLING_PARAMETERS)
    return [
        Arm(policy, f"{steps} steps", changed(base, **plain, unmasking=policy, num_sampling_steps=steps))
        for policy in POLICIES
        for steps in GRIDS[budget].steps
    ]


def default_arms(base: SamplingConfig, budget: str) -> list[Arm]:
    """One sweep for both plots. budget: quick, standard or full."""
    return [*temperature_arms(base, budget), *step_arms(base, budget)]


def changed(sampling: SamplingConfig, **changes: Any) -> SamplingConfig:
    """A copy, with its rules checked again."""
    return SamplingConfig.model_validate({**sampling.model_dump(), **changes})


def sweep(
    pipeline: DiffusionPipeline,
    judge: Judge,
    arms: Sequence[Arm],
    *,
    num_samples: int,
    seed: int,
    rows_at_once: int,
) -> list[Point]:
    """Write `num_samples` texts from nothing under each arm, with the same seed.

    Raises: UserError when the model can't write under an arm.
    """
    points = []
    for arm in arms:
        made = pipeline.generate(num_samples=num_samples, sampling=arm.sampling, seed=seed, rows_at_once=rows_at_once)
        cost = {"calls_per_text": made.calls / -(-num_samples // rows_at_once), "tokens_per_s": made.tokens_per_s}
        texts = [sample.text for sample in made.samples]
        points.append(
            of_texts(arm.name, arm.series, texts, judge, settings=pipeline.suited(arm.sampling).keyed(), **cost)
        )
    return points


def of_texts(
    name: str,
    series: str,
    texts: Sequence[str],
    judge: Judge,
    *,
    settings: dict[str, Any] | None = None,
    calls_per_text: float | None = None,
    tokens_per_s: float | None = None,
) -> Point:
    """The point of some texts: as they are, that of real stories, which the caller cuts to the samples' row length."""
    judged = judge.score(texts)
    return Point(
        name=name,
        series=series,
        settings=settings or {},
        perplexity=judged.perplexity,
        entropy_nats=judged.entropy_nats,
        distinct_2=distinct(texts, 2),
        self_bleu=self_bleu(texts),
        calls_per_text=calls_per_text,
        tokens=judged.tokens / len(texts),
        tokens_per_s=tokens_per_s,
    )


def plot(points: Sequence[Point], path: Path) -> None:
    """Write `draw(points)` as PNG and SVG: equal points give equal bytes."""
    save(draw(points), path)


@rc_context(STYLE)
def draw(points: Sequence[Point]) -> Figure:
    """Two plots in one picture: judge perplexity against entropy, and against runs of the network a text.

    A series stands on the left where its temperature varies, on the right where its steps do, and on both where it is
    written from left to right. Points without settings are real stories.
    """
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})
    curves: dict[str, list[Point]] = {}
    for point in points:
        if point.perplexity is not None:
            curves.setdefault(point.series, []).append(point)
    looks = cycle(zip(COLOURS, MARKERS, strict=True))
    for series, curve in curves.items():
        if not curve[0].settings:
            _draw_stories(left, right, series, curve)
            continue
        look, is_in_order = next(looks), curve[0].settings["unmasking"] == "left_to_right"
        if is_in_order or _varies(curve, "temperature"):
            _draw(left, series, [(point.entropy_nats, point.perplexity) for point in curve], look)
        if is_in_order or _varies(curve, "num_sampling_steps"):
            _draw(right, series, [(point.calls_per_text, point.perplexity) for point in curve], look)
    _dress(left, right)
    for axes in (left, right):
        _label_ends(axes)
    return figure


def _varies(curve: Sequence[Point], setting: str) -> bool:
    return len({point.settings[setting] for point in curve}) > 1


def _draw(axes: Axes, series: str, places: Sequence[tuple[float | None, float | None]], look: tuple[str, str]) -> None:
    colour, marker = look
    axes.plot(*zip(*places, strict=True), color=colour, label=series, marker=marker, markersize=5.5, linewidth=1.8)


def _draw_stories(left: Axes, right: Axes, series: str, stories: Sequence[Point]) -> None:
    for x, y in [(point.entropy_nats, point.perplexity) for point in stories]:
        assert x is not None
        assert y is not None
        left.plot(x, y, marker="*", markersize=15, color=INK, label=series, linestyle="none", zorder=5)
        left.axhline(y, color=INK, linewidth=0.8, linestyle=":", alpha=0.5)
        right.axhline(y, color=INK, linewidth=1.4, linestyle="--", label=series)


def _dress(left: Axes, right: Axes) -> None:
    """Titles, scales and ticks, once all is drawn."""
    left.set_title("Quality against variety: from cold to hot", fontsize=12)
    right.set_title("Quality against cost: from few steps to many", fontsize=12)
    left.set_xlabel("entropy of a text, nats (more is more varied)")
    right.set_xlabel("runs of the network a text")
    left.set_ylabel("judge perplexity (less is likelier)")
    left.set_yscale("log")
    right.set_xscale("log", base=2)
    low, high = left.get_ylim()
    left.yaxis.set_major_locator(LogLocator(subs=TICKS[min(int(math.log10(high / low) / 1.5), 2)]))
    for axis in (left.yaxis, right.xaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    for axes in (left, right):
        axes.margins(0.08)
        axes.tick_params(labelleft=True)
        axes.autoscale_view()


def _label_ends(axes: Axes) -> None:
    """The name of each curve in a column beside the axes, at the height of its last point where there is room."""
    to_share = axes.transData + axes.transAxes.inverted()
    named = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    tips = {line: tuple(np.asarray(line.get_xydata())[-1]) for line in named}
    rising = sorted(named, key=lambda line: tips[line][1])
    heights = spread([to_share.transform((1, tips[line][1]))[1] for line in rising], LABEL_GAP)
    for line, height in zip(rising, heights, strict=True):
        leader = {"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.7, "alpha": 0.6, "relpos": (0, 0.5)}
        axes.annotate(
            str(line.get_label()), tips[line], (1.05, height),
            xycoords=line.get_transform(), textcoords="axes fraction",
            color=line.get_color(), fontsize=11, va="center", arrowprops=leader,
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights, moved as little as possible (least squares) until neighbours are `gap` apart.

    The lowest is at least 0, and the highest half a gap below 1, where a title stands. Less its rank times the gap,
    each height must rise: those that would fall share their mean.
    """
    blocks: list[list[float]] = []
    for rank, height in enumerate(heights):
        blocks.append([height - rank * gap])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    highest = 1 - (len(heights) - 0.5) * gap
    shared = [min(max(fmean(block), 0), highest) for block in blocks for _ in block]
    return [height + rank * gap for rank, height in enumerate(shared)]
