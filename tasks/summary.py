"""A run's summary as Prefect artifacts: what its page in the UI shows."""

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from ddlm.experiment.view import Summary


def show(summary: Summary) -> Summary:
    """A markdown summary, a table of scores, a link to each GIF. Returns the summary."""
    create_markdown_artifact(summary.markdown(), key=slug(summary.name, "summary"))
    create_table_artifact([dict(summary.scores)], key=slug(summary.name, "scores"))
    for path in sorted(summary.folder.rglob("*.gif")):
        create_link_artifact(path.resolve().as_uri(), key=slug(summary.name, path.stem), link_text=path.name)
    return summary


def slug(*parts: str) -> str:
    """An artifact key: Prefect takes lowercase letters, digits and dashes."""
    return "-".join(parts).lower().replace("_", "-")
