"""The pictures of an evaluation, each as PNG and SVG in the common style: equal figures give equal bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from ddlm.figures import COLOURS, QUIET, SURENESS, count_in_decades, draw_series, draw_values, height_of, label, picture
from ddlm.generation import Frame

Points = list[tuple[float, float]]
CURVES = {"train/nll_nats": "training", "val/nll_nats": "validation"}
MANY_POINTS = 40
"""More than that on a curve and its markers would touch."""


def draw_curve(curve: Mapping[str, Points], path: Path) -> None:
    """Training and validation nats per token over steps, behind a causal start, which has none."""
    causal = [step for step, _ in curve.get("train/autoregressive_nats", [])]
    with picture(path, height=4.2) as (axes,):
        if causal and causal[-1] < min((step for step, _ in curve["train/nll_nats"]), default=0):
            axes.axvspan(0, causal[-1], color=QUIET, alpha=0.2, label="causal start")
        for number, (name, called) in enumerate(CURVES.items()):
            points = curve.get(name) or []
            draw_series(axes, number, called, points, marked=len(points) <= MANY_POINTS)
        label(axes, "optimizer step", "nats per token")


def draw_lengths(texts: Mapping[str, Sequence[str]], path: Path) -> None:
    """How many words the texts of each kind have: shares, since there are more stories than samples."""
    counts = {name: [len(text.split()) for text in group] for name, group in texts.items()}
    longest = max(max(numbers, default=0) for numbers in counts.values())
    width = max(1, -(-(longest + 1) // 30))
    bins = list(range(0, longest + width + 1, width))
    with picture(path, height=3.4) as (axes,):
        for number, (name, numbers) in enumerate(counts.items()):
            weights = [1 / len(numbers)] * len(numbers)
            look: Any = {"histtype": "step", "linewidth": 2.2} if number else {"alpha": 0.55}
            axes.hist(numbers, bins, weights=weights, color=COLOURS[number], label=name, **look)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        label(axes, "words", "share of the texts")


def draw_mask_rates(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What a masked token costs over the share of the row that is masked."""
    kinds = {"text_nats": "tokens of the stories", "nll_nats": "all positions, tails too"}
    with picture(path, height=3.8) as (axes,):
        for number, (key, called) in enumerate(kinds.items()):
            draw_series(axes, number, called, [(point["mask_rate"], point[key]) for point in points])
        axes.set_ylim(0, 1.08 * max(max(point[key] for key in kinds) for point in points))
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        label(axes, "share of the row that is masked", "nats per masked token")


def draw_intervals(values: Mapping[str, tuple[float, tuple[float, float]]], path: Path) -> None:
    """Bits per byte under several protocols, each with its interval over stories; the first on top."""
    with picture(path, height=height_of(len(values))) as (axes,):
        rows = [(name, value, interval) for name, (value, interval) in values.items()]
        draw_values(axes, rows, "bits per byte, lower is better")


def draw_calibration(calibration: Mapping[str, Any], path: Path) -> None:
    """How often the likeliest token is right, over the probability that it was given; a bar a tenth."""
    bins = calibration["bins"]
    with picture(path, width=6.4, height=5) as (axes,):
        axes.plot([0, 1], [0, 1], color=QUIET, linestyle="--", linewidth=1.5, label="as often as it says")
        sizes = [40 + 400 * found["tokens"] / calibration["tokens"] for found in bins]
        sure, right = ([found[key] for found in bins] for key in ("confidence", "accuracy"))
        axes.plot(sure, right, color=COLOURS[0], linewidth=1.5)
        axes.scatter(sure, right, s=sizes, color=COLOURS[0], zorder=3, label="this model; area: how many tokens")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1))
        label(axes, "probability of the likeliest token", "how often it is the right one")


def draw_order(frames: Sequence[Frame], path: Path) -> None:
    """When each position of one text was written, and how sure the model was of it."""
    places = [
        (place, frame.step, tile.confidence)
        for frame in frames
        for place, tile in enumerate(frame.tiles)
        if tile.state == "new"
    ]
    positions, steps, sureness = zip(*places, strict=True) if places else ((), (), ())
    with picture(path, height=4.2) as (axes,):
        dots = axes.scatter(positions, steps, c=sureness, cmap=SURENESS, vmin=0, vmax=1, s=34)
        bar = axes.figure.colorbar(dots, ax=axes, pad=0.02)
        bar.set_label("probability when written")
        label(axes, "position in the text, tokens", "step")


def draw_latency(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Judge perplexity over tokens a second, a curve for each policy from few steps to many. points: of a frontier."""
    series: dict[str, Points] = {}
    for point in points:
        if point["perplexity"] is not None and point["tokens_per_s"] and is_about_steps(point, points):
            series.setdefault(point["series"], []).append((point["tokens_per_s"], point["perplexity"]))
    with picture(path) as (axes,):
        for number, (name, curve) in enumerate(series.items()):
            draw_series(axes, number, name, curve)
        _stories(axes, points)
        axes.set(xscale="log", yscale="log")
        count_in_decades(axes.xaxis, axes.yaxis)
        label(axes, "tokens a second, more is faster", "judge perplexity, less is likelier")


def is_about_steps(point: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the steps of its series vary, or it is written from left to right, which takes a step a token."""
    others = [other for other in points if other["series"] == point["series"]]
    steps = {other["settings"]["num_sampling_steps"] for other in others}
    return len(steps) > 1 or point["settings"]["unmasking"] == "left_to_right"


def _stories(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    for point in points:
        if not point["settings"] and point["perplexity"] is not None:
            axes.axhline(point["perplexity"], color=QUIET, linestyle="--", linewidth=1.5, label=point["series"])
