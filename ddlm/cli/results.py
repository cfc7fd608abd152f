"""`ddlm open`: what a run has left to look at."""

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ddlm.config import UserError, home, shortened

SHOWN = ("report.html", "denoising.gif")
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="An experiment, or a folder with a report.", show_default=False)
]


def add_to(app: typer.Typer) -> None:
    app.command("open")(open_)


def open_(name: NameArgument) -> None:
    """Open the report and the film of an experiment's last run, and say where they are.

    Where there is no screen, the paths alone are said.

    Example: ddlm open quick
    """
    for path in found(name):
        typer.echo(str(path))
        if has_screen():
            webbrowser.open(path.resolve().as_uri())


def found(name: str) -> list[Path]:
    """Report and film. Raises: UserError where there are none."""
    for folder in (home() / name, Path(name).expanduser()):
        paths = [folder / file for file in SHOWN if (folder / file).is_file()]
        if paths:
            return paths
    names = sorted({path.parent.name for file in SHOWN for path in home().glob(f"[!.]*/{file}")})
    remedy = f"take one of {', '.join(names)}" if names else "a whole ddlm run makes them"
    raise UserError(f"open {shortened(name)}: no {' and no '.join(SHOWN)} there; {remedy}")


def has_screen() -> bool:
    """Whether a browser that is started here would be seen."""
    shows_windows = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return sys.stdout.isatty() and (sys.platform in ("darwin", "win32") or shows_windows)
