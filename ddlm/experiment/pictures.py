"""The pictures of a comparison, each as PNG and SVG in the common style: equal figures give equal bytes."""

from collections.abc import Mapping
from pathlib import Path

from ddlm.figures import draw_series, draw_values, height_of, label, picture
from ddlm.tracking.comparison import Points

LEGEND_RUNS = 12
"""More names than that hide the picture."""


def draw_curves(curves: Mapping[str, Points], path: Path) -> None:
    """Validation bits per byte over optimizer steps, a line for each run."""
    with picture(path, width=9, height=4.8) as (axes,):
        for number, (name, points) in enumerate(curves.items()):
            draw_series(axes, number, name if len(curves) <= LEGEND_RUNS else f"_{name}", points)
        label(axes, "optimizer step", "validation bits per byte, lower is better")


def draw_scores(values: Mapping[str, float], path: Path) -> None:
    """Bits per byte of each run, the best on top."""
    with picture(path, width=9, height=height_of(len(values))) as (axes,):
        draw_values(axes, [(name, value, None) for name, value in values.items()], "bits per byte, lower is better")
