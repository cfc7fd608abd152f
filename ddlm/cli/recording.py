"""Recordings of what ddlm shows in a terminal, as SVG: for a document, without a screen."""

import io
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from ddlm.cli.watch import View
from ddlm.data.progress import RECORDER
from ddlm.generation import Frame

WIDTH = 96
"""Columns."""
COLOURS = TerminalTheme(
    (16, 17, 20),
    (230, 230, 230),
    [(16, 17, 20), (235, 100, 75), (150, 200, 90), (226, 178, 75), (110, 160, 230), (205, 130, 210),
     (60, 190, 205), (230, 230, 230)],
    [(92, 94, 100), (250, 130, 105), (180, 225, 120), (245, 205, 110), (145, 190, 250), (225, 160, 230),
     (110, 220, 230), (255, 255, 255)],
)  # fmt: skip
"""Background, foreground, and the eight colours, plain and bright."""


@contextmanager
def recording(path: Path, title: str, width: int = WIDTH) -> Iterator[Console]:
    """Whatever runs inside shows its bars and its log to a recorder, and at the end `path` holds them as SVG.

    Yields the recorder, to which more may be printed. Bars are kept as they end.
    """
    recorder = Console(record=True, width=width, height=40, file=io.StringIO(), color_system="truecolor")
    token, logger, handler = RECORDER.set(recorder), logging.getLogger("ddlm"), ToRecorder(recorder)
    logger.addHandler(handler)
    try:
        yield recorder
    finally:
        logger.removeHandler(handler)
        RECORDER.reset(token)
    path.write_text(as_svg(recorder, title), encoding="utf-8")


def record_watch(frames: Iterable[Frame], path: Path, *, title: str = "ddlm generate --watch", at: float = 0.6) -> None:
    """`ddlm generate --watch` at a share of its steps.

    frames: while they are made, as `DiffusionPipeline.stream` gives them: the bar says how fast they come.
    """
    with recording(path, title) as recorder:
        view = View(recorder)
        for frame in frames:
            shown = view.of(frame)
            if frame.step >= at * frame.num_sampling_steps:
                break
        recorder.print(shown)


def as_svg(recorder: Console, title: str) -> str:
    """Without the fonts that rich would fetch from the net: the reader's own monospaced one does."""
    svg = recorder.export_svg(title=title, theme=COLOURS, unique_id="ddlm")
    return re.sub(r"@font-face\s*\{[^}]*\}\s*", "", svg)


class ToRecorder(logging.Handler):
    """Log lines as the command line shows them."""

    def __init__(self, recorder: Console) -> None:
        super().__init__()
        self.recorder = recorder
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        self.recorder.print(self.format(record), markup=False, highlight=False, soft_wrap=False)
