"""The style of every plot: one set of colours, sizes that stay readable at half size, PNG and SVG beside each other.

Series differ by colour and by marker, and the colours by lightness too: Okabe and Ito's set for all kinds of eyes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

INK, QUIET, RULE = "#1d2733", "#55616e", "#dde3ea"
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c564b", "#5c677d", "#a0a000",
)  # fmt: skip
MARKERS = "osD^vPX<>p"
SURENESS: Colormap = LinearSegmentedColormap.from_list("sureness", ["#cd3719", "#b07a0a", "#107a8c"])
"""From unsure to sure, as in the films."""
DOTS_PER_INCH = 110
INSIDE = 4
"""The names of more series than that stand beside the axes: inside they would hide a curve."""
STYLE = {
    "font.size": 13, "axes.labelsize": 13, "axes.titlesize": 13.5, "axes.titlelocation": "left",
    "xtick.labelsize": 12, "ytick.labelsize": 12, "legend.fontsize": 12, "legend.frameon": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": QUIET, "xtick.color": QUIET, "ytick.color": QUIET,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": RULE,
    "grid.linewidth": 0.8, "axes.axisbelow": True, "lines.linewidth": 2, "lines.markersize": 6,
    "figure.facecolor": "white", "axes.facecolor": "white", "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.1, "svg.hashsalt": "ddlm", "svg.fonttype": "path",
}  # fmt: skip


@contextmanager
def picture(path: Path, *, width: float = 8, height: float = 4.5, columns: int = 1) -> Iterator[list[Axes]]:
    """Axes side by side to draw on, width and height in inches; written when all is drawn: see `save`."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield list(figure.subplots(1, columns, squeeze=False)[0])
        save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write `path`, a .png, and the .svg beside it. No version and no date in either: equal figures, equal bytes."""
    with rc_context(STYLE):
        figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Creator": None, "Date": None})


def draw_series(
    axes: Axes, number: int, label: str, points: Sequence[tuple[float, float]], *, marked: bool = True
) -> None:
    """A curve with the look that belongs to its number. Nothing is drawn, but named, where there are no points."""
    xs, ys = zip(*points, strict=True) if points else ((), ())
    marker = MARKERS[number % len(MARKERS)] if marked else None
    axes.plot(xs, ys, color=COLOURS[number % len(COLOURS)], marker=marker, label=label)


def label(axes: Axes, x: str, y: str) -> None:
    """Names of the axes; and of the series, where there are several."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    count = len(axes.get_legend_handles_labels()[1])
    if count > INSIDE:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    elif count > 1:
        axes.legend()


def count_in_decades(*axes: Axis) -> None:
    """Plain numbers at 1, 2 and 5 of each decade of a logarithmic axis."""
    for axis in axes:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())


def draw_values(
    axes: Axes, values: Sequence[tuple[str, float, tuple[float, float] | None]], x: str, digits: int = 3
) -> None:
    """Names with a value each, the first on top; and its interval, where it has one."""
    for place, (_, value, interval) in enumerate(values):
        if interval:
            axes.plot(interval, [place, place], color=COLOURS[0], linewidth=2.5, solid_capstyle="round")
        axes.plot([value], [place], "o", color=COLOURS[0], markersize=8)
        axes.annotate(
            f"{value:.{digits}f}", (value, place), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=12
        )
    axes.set_yticks(range(len(values)), [name for name, _, _ in values], color=INK)
    axes.set_ylim(len(values) - 0.5, -0.8)
    axes.set_xlabel(x)
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.08)


def height_of(rows: int) -> float:
    """Inches for so many rows of `draw_values`."""
    return 1.0 + 0.5 * rows
