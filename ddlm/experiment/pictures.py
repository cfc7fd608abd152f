"""The pictures of a comparison, as PNG: equal figures give equal bytes."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ddlm.tracking.comparison import Points

PALETTE = colormaps["tab10"]
LEGEND_RUNS = 12
"""More names than that hide the picture."""


def draw_curves(curves: Mapping[str, Points], path: Path) -> None:
    """Validation bits per byte over optimizer steps, a line for each run."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=PALETTE(number % 10), label=name, marker="o", markersize=3)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("validation bits per byte, lower is better")
    if len(curves) <= LEGEND_RUNS:
        axes.legend(frameon=False, fontsize=8)
    _save(figure, axes, path)


def draw_scores(values: Mapping[str, float], path: Path) -> None:
    """Bits per byte of each run, the best on top."""
    figure = Figure(figsize=(8, 0.8 + 0.35 * len(values)), layout="constrained")
    axes = figure.subplots()
    places = range(len(values))
    axes.plot(list(values.values()), places, "o", color=PALETTE(0))
    for place, value in zip(places, values.values(), strict=True):
        axes.annotate(
            f"{value:.3f}", (value, place), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_yticks(places, list(values))
    axes.set_ylim(len(values) - 0.5, -0.8)
    axes.set_xlabel("bits per byte, lower is better")
    _save(figure, axes, path)


def _save(figure: Figure, axes: Axes, path: Path) -> None:
    """No software version in the file."""
    axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110, metadata={"Software": None})
