"""A progress bar for what takes longer than a glance."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

ItemT = TypeVar("ItemT")


def shown(items: Iterable[ItemT], label: str, total: int | None = None) -> Iterator[ItemT]:
    """The items, with a bar, their rate and the time left on stderr where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), TaskProgressColumn(show_speed=True), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield from bar.track(items, total)
