"""Waiting for a store that is away."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from ddlm.tracking.backends import Unavailable

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0

T = TypeVar("T")


def patiently(call: Callable[[], T], *, minutes: float, waiting: str) -> T:
    """The call's result; tried again, after ever longer pauses, while its store is away.

    waiting: who waits, for the log. Raises: Unavailable when it is still away after these minutes.
    """
    deadline, pause_s = time.monotonic() + 60 * minutes, FIRST_PAUSE_S
    while True:
        try:
            return call()
        except Unavailable as error:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise
            pause_s = min(pause_s, left_s)
            logger.warning("%s: %s; trying again in %.0f s, for %.0f s more", waiting, error, pause_s, left_s)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
