"""SIGTERM and Ctrl-C, put off to the end of a step so that the run can save first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def postponed() -> Iterator[Callable[[], bool]]:
    """Yields whether a signal has come. It takes effect when the block ends; a second one at once.

    What is ignored stays ignored: a shell's background jobs ignore Ctrl-C. Only the main thread can ask for signals;
    elsewhere they reach whoever handles them now.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        received.append(number)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        restore()
        if received:
            _take_effect(received[0])


def _take_effect(number: int) -> None:
    """As without us, but that the stack always unwinds: runs and locks are closed, and no half is taken for a whole."""
    if signal.getsignal(number) is not signal.SIG_DFL:
        signal.raise_signal(number)
    raise SystemExit(128 + number)
