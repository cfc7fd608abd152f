"""Pictures and tables of `ddlm bench device`: time against what it buys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from ddlm.figures import QUIET, count_in_decades, draw_series, label, picture

PANELS = {
    "bits_per_byte": "bits per byte in random order, at most",
    "judge_perplexity": "judge's perplexity",
    "entropy_nats": "entropy of words (nats)",
}
COLUMNS = {
    "graph": "{}", "unmasking": "{}", "num_sampling_steps": "{}", "ms_per_step": "{:.1f}", "ms_per_step_p90": "{:.1f}",
    "seconds_per_text": "{:.2f}", "tokens_per_s": "{:.0f}", "bits_per_byte": "≤ {:.3f}", "judge_perplexity": "{:.1f}",
    "entropy_nats": "{:.2f}", "distinct_2": "{:.2f}",
}  # fmt: skip
MEMORY = {
    "graph": "{}",
    "start_s": "{:.2f}",
    "bytes": "MB",
    "arena_bytes": "MB",
    "peak_resident_bytes": "MB",
    "usable_share": "{:.1%}",
}


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Seconds a text against each measure that there is; a curve for each graph and policy, a point for each number of
    steps."""
    panels = [name for name in PANELS if any(row.get(name) is not None for row in found["rows"])]
    with picture(path, width=1 + 5.5 * len(panels), height=4.8, columns=len(panels)) as axes:
        for place, name in zip(axes, panels, strict=True):
            for number, (series, rows) in enumerate(series_of(found).items()):
                measured = [row for row in rows if row.get(name) is not None]
                draw_series(place, number, series, [(row["seconds_per_text"], row[name]) for row in measured])
                _name_steps(place, measured, name)
            place.set_xscale("log")
            count_in_decades(place.xaxis)
            label(place, "seconds a text", PANELS[name])
        for place in axes[:-1]:
            if legend := place.get_legend():
                legend.remove()


def _name_steps(axes: Axes, rows: list[Mapping[str, Any]], name: str) -> None:
    for row in rows:
        axes.annotate(
            str(row["num_sampling_steps"]), (row["seconds_per_text"], row[name]), xytext=(5, 5),
            textcoords="offset points", fontsize=10, color=QUIET,
        )  # fmt: skip


def series_of(found: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Named by what differs, each by rising steps."""
    policies = {row["unmasking"] for row in found["rows"]}
    kinds = {variant["graph"]: variant["kind"] for variant in found["variants"]}
    several = len(set(kinds.values())) > 1
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(found["rows"], key=lambda row: row["num_sampling_steps"]):
        parts = [kinds[row["graph"]]] * several + [row["precision"]] + [row["unmasking"]] * (len(policies) > 1)
        groups.setdefault(" ".join(parts), []).append(row)
    return groups


def table(found: Mapping[str, Any]) -> str:
    """Both tables in Markdown, and what they were measured on."""
    where = ", ".join(f"{name} {value}" for name, value in found["hardware"].items())
    return "\n\n".join([where, _rows(found["variants"], MEMORY), _rows(found["rows"], COLUMNS)])


def _rows(rows: list[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    names = [name for name in columns if any(row.get(name) is not None for row in rows)]
    lines = [names, ["---"] * len(names), *([_shown(row.get(name), columns[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(value: Any, pattern: str) -> str:
    if value is None:
        return ""
    return f"{value / 1e6:.1f} MB" if pattern == "MB" else pattern.format(value)
