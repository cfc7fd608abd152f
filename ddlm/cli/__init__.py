"""The command line. Heavy imports happen inside the commands: `ddlm --help` answers at once."""

import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ddlm import __version__
from ddlm.artifacts import DamageError
from ddlm.cli import machine, models, page, registry, results, runs, writing
from ddlm.cli.refusals import UsageError, refusal
from ddlm.config import Unreachable, UserError, home, shortened
from ddlm.loopback import spare_loopback

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Small discrete diffusion language models: train, judge honestly, watch denoising, put on a Jetson.",
    epilog="First run: [bold]ddlm run configs/quick.toml[/bold]",
)
for part in (runs, results, writing, models, page, registry, machine):
    part.add_to(app)

INTERRUPTED = 130
STORAGE_FAULTS = {
    errno.ENOSPC: "the disk is full; free some room and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some room and run the same command again",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ENAMETOOLONG: "no file has so long a name",
}


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
    else:
        return
    raise typer.Exit


def main() -> None:
    """Run a command. Exit code 2: the user's mistake, in one line. 1: a failure. 130: Ctrl-C."""
    spare_loopback()
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal can't show must not end a command that is done
    try:
        with logging_to_stderr():
            code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer takes Ctrl-C for itself and says nothing
            fail(stopped(sys.argv[1:2]), INTERRUPTED)
        sys.exit(code or 0)
    except UsageError as error:
        fail(refusal(error, sys.argv[1:]), 2)
    except BrokenPipeError:  # whoever read our output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("DDLM_DEBUG"):
            raise
        fail(*explain(error))


def stopped(command: list[str]) -> str:
    """What is true after Ctrl-C."""
    if command == ["run"]:
        return "stopped; the same command resumes: what is built is cached, a training has saved a checkpoint"
    return "stopped"


class LogToStderr(logging.Handler):
    """Looks sys.stderr up for each line: while a progress bar is shown it is the bar's own, which writes above it."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """The library's log, and only there: Prefect adds handlers to the root logger that would say it again."""
    logger = logging.getLogger("ddlm")
    handler = LogToStderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def explain(error: BaseException) -> tuple[str, int]:
    """One line and an exit code for whatever ended a command."""
    if isinstance(error, UserError):
        return " ".join(str(error).split()), 2
    if isinstance(error, (DamageError, Unreachable)):
        return " ".join(str(error).split()), 1
    if isinstance(error, OSError) and error.errno in STORAGE_FAULTS:
        return f"{shortened(str(error.filename or 'writing'))}: {STORAGE_FAULTS[error.errno]}{where_else(error)}", 2
    return f"{type(error).__name__}: {' '.join(str(error).split())} (DDLM_DEBUG=1 shows where)", 1


def where_else(error: OSError) -> str:
    """The remedy for a place that can't be written: ddlm's own is moved, the user's is theirs to name."""
    if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ""
    is_own = not error.filename or Path(os.fsdecode(error.filename)).is_relative_to(home())
    return "; set DDLM_HOME to a folder that can be written" if is_own else "; give a path in a folder of yours"


def fail(line: str, code: int) -> None:
    typer.echo(f"ddlm: {line}", err=True)
    sys.exit(code)
