"""A run's summary as Prefect artifacts: what its page in the UI shows."""

import re
from collections.abc import Callable, Mapping

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from ddlm.experiment.compare import Comparison
from ddlm.experiment.evaluations import Rescored
from ddlm.experiment.sweep import Outcome
from ddlm.experiment.view import Summary


def show(summary: Summary, tracked: Callable[[str], str | None]) -> Summary:
    """A markdown summary, a table of scores, and each GIF. Returns the summary.

    tracked: where a browser finds a file of the tracked run. A GIF that has such an address is shown itself; another
    one is named by its path, which a page may not open.
    """
    create_markdown_artifact(summary.markdown(), key=slug(summary.name, "summary"))
    create_table_artifact(table_of(summary.scores), key=slug(summary.name, "scores"))
    for path in sorted(summary.folder.rglob("*.gif")):
        key, address = slug(summary.name, path.stem), tracked(path.name)
        if address:
            create_image_artifact(address, key=key, description=path.name)
        else:
            create_link_artifact(path.resolve().as_uri(), key=key, link_text=path.name)
    return summary


def table_of(scores: Mapping[str, float]) -> list[dict[str, str | float]]:
    return [{"score": name, "value": value} for name, value in scores.items()]


def slug(*parts: str) -> str:
    """An artifact key: Prefect takes lowercase letters, digits and dashes."""
    return re.sub("[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def show_evaluation(found: Rescored) -> Rescored:
    """A markdown summary and a link to the report. Returns what it shows."""
    create_markdown_artifact(found.markdown(), key=slug("evaluation", found.name))
    report = found.folder / "report.html"
    create_link_artifact(report.resolve().as_uri(), key=slug("report", found.name), link_text=report.name)
    return found


def show_sweep(outcome: Outcome) -> Outcome:
    """A markdown summary and a table of the trials. Returns what it shows."""
    create_markdown_artifact(outcome.markdown(), key=slug("sweep", outcome.name))
    create_table_artifact(outcome.table(), key=slug("trials", outcome.name))
    return outcome


def show_comparison(made: Comparison) -> Comparison:
    """The table, and its Markdown by text. Returns what it shows."""
    create_table_artifact([dict(row) for row in made.rows], key=slug("comparison", made.name))
    create_markdown_artifact(made.markdown(), key=slug("comparison", made.name, "by-text"))
    return made
