"""Denoising in the terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ddlm.generation import Frame

STYLES = {"prompt": "bold", "shown": "", "new": "bold cyan", "masked": "dim"}
Observer = Callable[[Frame], None]


@contextmanager
def observing(watch: bool) -> Iterator[Observer | None]:
    """On stderr, so that stdout holds the text alone: the text in the making, a bar, or, where nobody looks, nothing.

    Watched where stderr is no terminal, every step is a plain line.
    """
    console = Console(stderr=True)
    if watch and not (console.is_terminal and sys.stdout.isatty()):
        yield say
    elif watch:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            started = time.perf_counter()
            room = (console.width, console.height)
            yield lambda frame: live.update(fitted(styled(frame, time.perf_counter() - started), room), refresh=True)
    elif console.is_terminal:
        columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda frame: bar.update(task, total=frame.num_sampling_steps, completed=frame.step)
    else:
        yield None


def say(frame: Frame) -> None:
    text = " ".join("".join(span.text for span in frame.spans).split())
    sys.stderr.write(f"step {frame.step}/{frame.num_sampling_steps} {text}\n")


def styled(frame: Frame, elapsed_s: float) -> Text:
    """The head says the step, how much is left, and steps a second."""
    rate = frame.step / elapsed_s if elapsed_s > 0 else 0.0
    head = f"step {frame.step} / {frame.num_sampling_steps} · {frame.masked} masks left · {rate:.1f} steps/s\n\n"
    text = Text(head, style="dim")
    for span in frame.spans:
        text.append(span.text, style=STYLES[span.state])
    return text


def fitted(text: Text, room: tuple[int, int]) -> Text:
    """Head and last lines of what is taller than the terminal: scrolled away, they could not be drawn over."""
    width, height = room
    lines = text.wrap(Console(width=width), width)
    return Text("\n").join([*lines[:2], *lines[2:][-(height - 3) :]]) if len(lines) >= height else text
