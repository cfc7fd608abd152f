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

    Only the main thread can ask for signals; elsewhere they reach whoever handles them now.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        received.append(number)
        restore()

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        restore()
        if received:
            _take_effect(received[0])


def _take_effect(number: int) -> None:
    """As without us, but that a bare SIGTERM unwinds the stack, so that runs and locks are closed."""
    if number == signal.SIGTERM and signal.getsignal(number) is signal.SIG_DFL:
        raise SystemExit(128 + number)
    signal.raise_signal(number)
