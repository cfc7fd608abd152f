"""Plots of a training run."""

import csv
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

PAGE, INK, QUIET, RULE = "#fbf8f1", "#292521", "#6f675c", "#e8e1d3"
TRAIN, VALIDATION = "#8fb3c7", "#d04620"
"""Told apart by lightness too, not only by hue."""


def plot_curve(curve: Path, path: Path) -> None:
    """Training and validation bound over the steps of a train artifact's `curve.csv`, as a PNG."""
    figure = Figure(figsize=(8, 5), dpi=120, facecolor=PAGE, layout=ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.2))
    axes = figure.add_subplot(facecolor=PAGE)
    axes.plot(*series(curve, "train/nll_nats"), color=TRAIN, linewidth=1.2, label="training batches")
    axes.plot(
        *series(curve, "val/nll_nats"), color=VALIDATION, linewidth=2, marker="o", markersize=4, label="validation"
    )
    _style(axes)
    axes.set_xlabel("training step")
    axes.set_ylabel("bound on −log p (nats per token)")
    axes.legend(frameon=False, labelcolor=INK)
    figure.savefig(path, facecolor=PAGE, metadata={"Software": None})


def series(curve: Path, column: str) -> tuple[list[int], list[float]]:
    """Steps and values of a column, where it was measured."""
    with curve.open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row[column]]
    return [int(row["step"]) for row in rows], [float(row[column]) for row in rows]


def _style(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.tick_params(colors=QUIET, length=0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(axis="y", color=RULE)
    axes.set_axisbelow(True)
