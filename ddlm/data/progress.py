"""A progress bar for what takes longer than a glance."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

ItemT = TypeVar("ItemT")


@contextmanager
def bar(label: str, total: int | None, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """A bar with rate and time left on stderr, where that is a terminal. Yields `show(done, note)`."""
    console = Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), TaskProgressColumn(show_speed=True), TimeRemainingColumn())
    note = TextColumn("{task.fields[note]}")
    with Progress(*columns, note, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total, completed=done, note="")
        yield lambda completed, text: progress.update(task, completed=completed, note=text)


def shown(items: Iterable[ItemT], label: str, total: int | None = None) -> Iterator[ItemT]:
    """The items, each one moving a bar on."""
    with bar(label, total) as show:
        for number, item in enumerate(items, start=1):
            yield item
            show(number, "")
