"""The pictures of an evaluation, as PNG: equal figures give equal bytes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Points = list[tuple[float, float]]
COLOURS = ("#2a6f97", "#c1666b")
CURVES = {"train/nll_nats": "training", "val/nll_nats": "validation"}


def draw_curve(curve: Mapping[str, Points], path: Path) -> None:
    """Training and validation nats per token over steps."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for colour, (name, label) in zip(COLOURS, CURVES.items(), strict=True):
        steps, values = zip(*curve.get(name) or [(math.nan, math.nan)], strict=True)
        axes.plot(steps, values, color=colour, label=label, marker="o", markersize=3)
    _dress(axes, "optimizer step", "nats per token")
    _save(figure, path)


def draw_lengths(texts: Mapping[str, Sequence[str]], path: Path) -> None:
    """How many words the texts of each kind have: shares, since there are more stories than samples."""
    counts = {name: [len(text.split()) for text in group] for name, group in texts.items()}
    longest = max(max(numbers, default=0) for numbers in counts.values())
    width = max(1, -(-(longest + 1) // 30))
    bins = range(0, longest + width + 1, width)
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    for colour, (name, numbers) in zip(COLOURS, counts.items(), strict=True):
        weights = [1 / len(numbers)] * len(numbers)
        axes.hist(numbers, bins=list(bins), weights=weights, color=colour, alpha=0.6, label=name)
    _dress(axes, "words", "share of the texts")
    _save(figure, path)


def draw_mask_rates(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What a masked token costs over the share of the row that is masked."""
    rates = [point["mask_rate"] for point in points]
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    for colour, (key, label) in zip(
        COLOURS, {"text_nats": "tokens of the stories", "nll_nats": "all positions, tails too"}.items(), strict=True
    ):
        axes.plot(rates, [point[key] for point in points], color=colour, label=label, marker="o", markersize=3)
    axes.set_ylim(0, 1.08 * max(max(point["text_nats"], point["nll_nats"]) for point in points))
    axes.set_xlim(0, 1)
    _dress(axes, "share of the row that is masked", "nats per masked token")
    _save(figure, path)


def draw_intervals(values: Mapping[str, tuple[float, tuple[float, float]]], path: Path) -> None:
    """Bits per byte under several protocols, each with its interval over stories; the first on top."""
    figure = Figure(figsize=(8, 0.7 + 0.42 * len(values)), layout="constrained")
    axes = figure.subplots()
    for place, (value, (low, high)) in enumerate(values.values()):
        axes.plot([low, high], [place, place], color=COLOURS[0], linewidth=2, solid_capstyle="round")
        axes.plot([value], [place], "o", color=COLOURS[0])
        axes.annotate(
            f"{value:.3f}", (value, place), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=9
        )
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.5, -0.7)
    axes.set_xlabel("bits per byte, lower is better")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    _save(figure, path)


def _dress(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _save(figure: Figure, path: Path) -> None:
    """No software version in the file."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110, metadata={"Software": None})
