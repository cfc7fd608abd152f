"""`ddlm run` and `ddlm config`."""

import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddlm.config import UserError, dump_toml, parse_override
from ddlm.experiment import load_experiment

if TYPE_CHECKING:
    from ddlm.experiment.stages import Session
    from ddlm.experiment.view import Summary

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="An experiment's TOML.", show_default=False)]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; may be repeated.")
]


def add_to(app: typer.Typer) -> None:
    app.command("run")(run)
    app.command("config")(config)


def run(
    path: ConfigArgument,
    set_: SetOption = None,
    until: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
    force: Annotated[list[str] | None, typer.Option(help="Rebuild this stage; may be repeated.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check every byte of cached artifacts.")] = False,
    no_prefect: Annotated[bool, typer.Option("--no-prefect", help="Plainly, without a Prefect server.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Trace a few training steps: training.profile.")] = False,
) -> None:
    """The whole pipeline in this process: corpus to Jetson bundle, cached and resumable.

    Examples:

      ddlm run configs/quick.toml

      ddlm run configs/quick.toml --set corpus.source=stories.txt --set training.steps=2000

      ddlm run configs/quick.toml --until train

      torchrun --nproc-per-node 2 --no-python ddlm run configs/small.toml
    """
    from ddlm.experiment.stages import NotPublished, Session, require_stage, run_plainly

    overrides = dict(map(parse_override, set_ or [])) | ({"training.profile": True} if profile else {})
    experiment = load_experiment(path, overrides)
    if until:
        require_stage(until)
    if is_behind_the_first_rank():
        experiment = load_experiment(path, overrides | {"tracking.backend": "none"})
    session = Session(experiment, force=frozenset(force or []), verify=verify, overrides=overrides)
    if is_behind_the_first_rank():
        session.follow(run_plainly(session, "shards"))
        return
    try:
        summary = _run_stages(session, path, overrides, until, with_prefect=not no_prefect)
    except NotPublished as error:
        show(error.summary)
        raise
    show(summary)


def _run_stages(
    session: "Session", path: Path, overrides: dict[str, Any], until: str | None, *, with_prefect: bool
) -> "Summary":
    from ddlm.experiment.stages import run_plainly

    if not with_prefect:
        with session:
            return session.finish(run_plainly(session, until))
    found = {entry.name: entry for entry in entry_points(group="ddlm.flows")}
    if "full-pipeline" not in found:
        raise UserError("the flows are not installed; run `pip install -e .` in the project, or give --no-prefect")
    summary: Summary = found["full-pipeline"].load()(session, str(path), _without_login(overrides), until)
    return summary


def _without_login(overrides: dict[str, Any]) -> dict[str, Any]:
    """Prefect keeps a run's parameters, so an address with a login goes by the environment."""
    from ddlm.tracking.provenance import without_password

    uri = overrides.get("tracking.uri")
    if not isinstance(uri, str) or without_password(uri) == uri:
        return overrides
    os.environ["MLFLOW_TRACKING_URI"] = uri
    return {**overrides, "tracking.uri": None}


def is_behind_the_first_rank() -> bool:
    """Under torchrun the first rank runs the pipeline; the others help it train."""
    return int(os.environ.get("RANK", "0")) > 0


def config(path: ConfigArgument, set_: SetOption = None) -> None:
    """The resolved experiment as TOML; nothing is run.

    Example: ddlm config configs/quick.toml --set model.d_model=512
    """
    typer.echo(dump_toml(load_experiment(path, dict(map(parse_override, set_ or [])))), nl=False)


def show(summary: object) -> None:
    """One table: scores, a sample, the paths, and what to try next."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ddlm.experiment.view import Summary

    assert isinstance(summary, Summary)
    table = Table(title=summary.name, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("stages", ", ".join(f"{name} {state}" for name, state in summary.stages.items()), end_section=True)
    for label, value in summary.headlines:
        table.add_row(label, value)
    table.add_section()
    if summary.best_sample:
        table.add_row("a sample", Text(summary.best_sample), end_section=True)  # Text: brackets are no markup
    if summary.decision:
        table.add_row("registry", Text(summary.decision), end_section=True)
    table.add_row("files", Text("\n".join(map(str, summary.paths()))), end_section=True)
    if commands := summary.next_commands():
        table.add_row("try next", Text("\n".join(commands)))
    Console().print(table)
