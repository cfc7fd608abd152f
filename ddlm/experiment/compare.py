"""A comparison of tracked runs as a folder: a table as CSV and Markdown, and pictures."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddlm.artifacts import digest_of, write_atomically
from ddlm.config import home
from ddlm.experiment.view import plain, relative, require_folder_name
from ddlm.tracking.comparison import UNKNOWN, Choice, Group, RunSearch, grouped, rows


@dataclass(frozen=True)
class Comparison:
    """What was compared. rows: of the table. pictures: what there was something to draw for."""

    name: str
    folder: Path
    rows: Sequence[Mapping[str, Any]]
    pictures: Sequence[Path]

    def markdown(self) -> str:
        """A table for each text: what was measured on different texts is not comparable."""
        lines = [f"## {self.name}", ""]
        for text in dict.fromkeys(row["text"] for row in self.rows):
            group = [row for row in self.rows if row["text"] == text]
            title = f"Measured on the text `{text}`" if text != UNKNOWN else "Not ranked, since their text is unknown"
            lines += [f"{title}:", "", *markdown_table(group), ""]
        return "\n".join([*lines, f"Folder: `{relative(self.folder)}`"])


def compare_runs(choice: Choice, *, name: str | None = None, uri: str | None = None) -> Comparison:
    """Write `comparisons/<name>/`; the name is made from the runs, if not given. Raises: UserError without runs."""
    groups = grouped(RunSearch(uri).find(choice))
    called = (
        require_folder_name(name)
        if name
        else f"runs-{digest_of([[run.id for run in group.runs] for group in groups])[:8]}"
    )
    folder = home() / "comparisons" / called
    folder.mkdir(parents=True, exist_ok=True)
    made = Comparison(called, folder, rows(groups), draw(groups, folder))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(made.rows[0]))
    writer.writeheader()
    writer.writerows(made.rows)
    write_atomically(folder / "comparison.csv", text.getvalue().encode())
    write_atomically(folder / "comparison.md", made.markdown().encode())
    return made


def markdown_table(group: Sequence[Mapping[str, Any]]) -> list[str]:
    """Without the columns that are empty in all of these rows."""
    names = [name for name in group[0] if name != "text" and any(row[name] is not None for row in group)]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return lines + [f"| {' | '.join(shown(row[name]) for name in names)} |" for row in group]


def shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else plain(str(value))


def draw(groups: Sequence[Group], folder: Path) -> list[Path]:
    """`curves-<text>.png`: validation over steps; `scores-<text>.png`: what the ranking goes by. One text a picture;
    scores on nobody knows what text have none."""
    from ddlm.experiment.pictures import draw_curves, draw_scores  # matplotlib takes a second

    pictures = []
    for group in groups:
        slug = group.text
        label = {run.id: f"{run.name} {run.id[:6]}" for run in group.runs}
        curves = {label[run.id]: run.curve for run in group.runs if run.curve}
        values = {label[run.id]: run.value for run in group.runs if run.value is not None}
        if curves:
            pictures.append(folder / f"curves-{slug}.png")
            draw_curves(curves, pictures[-1])
        if values and group.data:
            pictures.append(folder / f"scores-{slug}.png")
            draw_scores(values, pictures[-1])
    return pictures
