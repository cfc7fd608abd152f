"""Denoising in the terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import Progress
from rich.text import Text

from ddlm.data.progress import DONE, OPEN, bars, console
from ddlm.generation import Frame, Span

STYLES = {"prompt": "dim", "shown": "", "masked": OPEN}
SURENESS = ("red", "yellow", DONE)
"""Of new words, from unsure to sure."""
HEAD = 2
"""Lines above the text: the bar and a space."""
Observer = Callable[[Frame], None]


@contextmanager
def observing(watch: bool) -> Iterator[Observer | None]:
    """On stderr, so that stdout holds the text alone: the text in the making, a bar, or, where nobody looks, nothing.

    Watched where stderr is no terminal, every step is a plain line. Ctrl-C leaves the text that was watched.
    """
    screen = console()
    if watch and not (screen.is_terminal and sys.stdout.isatty()):
        yield say
    elif watch:
        view = View(screen)
        try:
            with Live(console=screen, transient=True, auto_refresh=False) as live:
                yield lambda frame: live.update(view.of(frame), refresh=True)
        except KeyboardInterrupt:
            if view.text:
                screen.print(view.text)
            raise
    elif screen.is_terminal:
        with bars(screen, transient=True) as progress:
            yield lambda frame: advance(progress, frame)
    else:
        yield None


def say(frame: Frame) -> None:
    text = " ".join("".join(span.text for span in frame.spans).split())
    sys.stderr.write(f"step {frame.step}/{frame.num_sampling_steps} {text}\n")


def advance(progress: Progress, frame: Frame) -> None:
    """Move the only bar to a frame."""
    if not progress.task_ids:
        progress.add_task("writing", total=None, unit="steps", note="")
    note = f"{frame.masked:,} masks"
    progress.update(progress.task_ids[0], total=frame.num_sampling_steps, completed=frame.step, note=note)


class View:
    """A bar, and below it the text in the making; of one that is taller than the terminal its last lines.

    text: the one that was shown last, whole.
    """

    def __init__(self, screen: Console) -> None:
        self.screen, self.progress, self.text = screen, bars(screen), Text()

    def of(self, frame: Frame) -> Group:
        advance(self.progress, frame)
        self.text = styled(frame)
        lines = self.text.wrap(self.screen, self.screen.width)
        room = self.screen.height - HEAD - 1  # scrolled away, lines could not be drawn over
        return Group(self.progress.get_renderable(), "", Text("\n").join(lines[-room:]))


def styled(frame: Frame) -> Text:
    text = Text()
    for span in frame.spans:
        text.append(span.text, style=f"bold {sureness(span)}" if span.state == "new" else STYLES[span.state])
    return text


def sureness(span: Span) -> str:
    place = int((1.0 if span.confidence is None else span.confidence) * len(SURENESS))
    return SURENESS[min(place, len(SURENESS) - 1)]
