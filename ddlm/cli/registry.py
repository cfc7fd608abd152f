"""`ddlm registry`: the versions of registered models, and which of them is champion."""

import json
from typing import Annotated, Any

import typer

NameArgument = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The registered model (ddlm-quick), or its experiment.", show_default=False),
]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="Its number.", show_default=False)]
UriOption = Annotated[
    str | None,
    typer.Option("--uri", help="An MLflow server or store; MLFLOW_TRACKING_URI, or that of the home folder."),
]

commands = typer.Typer(help="Registered models: versions, champion, and how to change it.")


def add_to(app: typer.Typer) -> None:
    app.add_typer(commands, name="registry")


@commands.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One model; all, if absent.")] = None,
    uri: UriOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Versions, newest first: aliases, bits per byte, the text that they were measured on, and why.

    Example: ddlm registry list quick
    """
    from ddlm.experiment.versions import list_versions

    found = list_versions(name, uri)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    if not found:
        typer.echo("no model is registered yet; a whole ddlm run registers one")
    for model, rows in found.items():
        _show(model, rows)


@commands.command("promote")
def promote(name: NameArgument, version: VersionArgument, uri: UriOption = None) -> None:
    """Make a version champion by hand.

    Example: ddlm registry promote quick 3
    """
    from ddlm.experiment.versions import Model

    model = Model.open(name, uri)
    typer.echo(f"{model.registry.model} version {model.promote(version).number} is champion")


@commands.command("rollback")
def rollback(name: NameArgument, uri: UriOption = None) -> None:
    """Make the champion before this one champion again.

    Example: ddlm registry rollback quick
    """
    from ddlm.experiment.versions import Model

    model = Model.open(name, uri)
    typer.echo(f"{model.registry.model} version {model.rollback().number} is champion again")


def _show(model: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=model, title_justify="left")
    for column in ("version", "aliases", "bits per byte", "measured on", "made", "why"):
        table.add_column(column, overflow="fold")
    for row in rows:
        row["reason"] = row["reason"].removeprefix(f"{model} version {row['version']} ")
        table.add_row(*(Text(cell) for cell in _cells(row)))
    Console().print(table)


def _cells(row: dict[str, Any]) -> list[str]:
    """As people read it: the interval behind the number, the first of the digest."""
    score, interval = row["bits_per_byte"], row["bits_per_byte_interval"]
    shown = "" if score is None else f"{score:.3f}"
    if interval:
        shown += f" ({interval[0]:.3f} to {interval[1]:.3f})"
    made = (row["made"] or "")[:16].replace("T", " ")
    return [row["version"], ", ".join(row["aliases"]), shown, (row["data_digest"] or "")[:12], made, row["reason"]]
