"""What takes longer than a glance, in the terminal: one bar, one set of words and colours, for all that ddlm does."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

ItemT = TypeVar("ItemT")

DONE, OPEN, QUIET = "cyan", "bright_black", "dim"
"""The terminal's own colours, so that they suit light and dark ones: what is done, what is not, what is said beside."""
BAR_WIDTH = 24
"""Columns, or a sixth of a narrow terminal: the note behind it needs the room."""
RECORDER: ContextVar[Console | None] = ContextVar("recorder", default=None)
"""Where a recording is made, what writes to the terminal writes here instead."""


class Count(ProgressColumn):
    """420/1,000 steps."""

    def render(self, task: Task) -> Text:
        whole = "" if task.total is None else f"/{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}{whole} {task.fields['unit']}".rstrip(), style=DONE)


class Note(ProgressColumn):
    """What else there is to say. The one column that gives way where the line is too long for the terminal."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["note"], style=QUIET, no_wrap=True, overflow="ellipsis")


class Rate(ProgressColumn):
    """12.1/s, over the last half minute, or, at the end, over all of it."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.{int(speed < 100)}f}/s", style=QUIET)


class Left(ProgressColumn):
    """How long yet; in the end, how long it took."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if task.finished:
            return Text(f"in {clock(task.finished_time or 0)}", style=QUIET)
        return Text("" if task.time_remaining is None else f"{clock(task.time_remaining)} left", style=QUIET)


def clock(seconds: float) -> str:
    """0:02:05."""
    return str(timedelta(seconds=int(seconds)))


def console() -> Console:
    """Of stderr, so that stdout holds results alone."""
    return RECORDER.get() or Console(stderr=True)


def is_watched(screen: Console) -> bool:
    return screen.is_terminal or screen.record


def bars(screen: Console, *, transient: bool = False) -> Progress:
    """What, how far, how many, how fast, how long yet, and a note. A task has the fields `unit` and `note`."""
    return Progress(
        TextColumn("{task.description}", style="bold"),
        BarColumn(min(BAR_WIDTH, screen.width // 6), OPEN, DONE, DONE, DONE, Column(no_wrap=True)),
        Count(Column(no_wrap=True)),
        Rate(Column(no_wrap=True)),
        Left(Column(no_wrap=True)),
        Note(),
        console=screen,
        transient=transient,
        disable=not is_watched(screen),
    )


@contextmanager
def bar(label: str, total: int | None, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """A bar on stderr, where that is a terminal. Yields `show(done, note)`.

    label: what is done, and what is counted: `training, steps`.
    """
    what, _, unit = label.rpartition(", ")
    with bars(console()) as progress:
        task = progress.add_task(what or unit, total=total, completed=done, note="", unit=unit if what else "")
        yield lambda completed, text: progress.update(task, completed=completed, note=text)
        if total is None:  # now it is known
            progress.update(task, total=progress.tasks[0].completed)


def shown(items: Iterable[ItemT], label: str, total: int | None = None) -> Iterator[ItemT]:
    """The items, each one moving a bar on."""
    with bar(label, total) as show:
        for number, item in enumerate(items, start=1):
            yield item
            show(number, "")
