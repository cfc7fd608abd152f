"""What may be asked of the server, and who is served when: one text at a time, a short queue, a rate an address."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

if __package__:  # inside the library, which ships this file
    from ddlm.export.runtime.options import OPTIONS
    from ddlm.export.runtime.writing import Order
else:
    from options import OPTIONS  # type: ignore[import-not-found,no-redef]
    from writing import Order  # type: ignore[import-not-found,no-redef]

CLIENTS = 1024
"""Addresses whose rate is remembered."""


@dataclass(frozen=True)
class Limits:
    """What a request may ask for, and how many there may be. rate: requests a minute from one address."""

    samples: int
    steps: int
    length: int
    body_bytes: int
    waiting: int
    rate: int


class Refusal(Exception):
    """An answer that is an error: its status and one line. allow: the methods that the path has."""

    def __init__(
        self, status: HTTPStatus, line: str, retry_after_s: int | None = None, allow: str | None = None
    ) -> None:
        super().__init__(line)
        self.status, self.line, self.retry_after_s, self.allow = status, line, retry_after_s, allow

    def headers(self) -> dict[str, str]:
        found = {"Retry-After": self.retry_after_s, "Allow": self.allow}
        return {name: str(value) for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Request:
    """A request that was found in order."""

    order: Order
    options: dict[str, Any]
    stream: bool


# What may be asked


def kind_of(*kinds: type) -> Callable[[object], bool]:
    """Whether a value of JSON is of these kinds; true and false are no numbers."""
    return lambda value: isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def within(low: float, high: float, *, whole: bool = True) -> Callable[[object], bool]:
    is_number = kind_of(int) if whole else kind_of(int, float)
    return lambda value: is_number(value) and low <= value <= high  # type: ignore[operator]


def fields_of(limits: Limits) -> dict[str, tuple[Callable[[object], bool], str]]:
    """For each key of a request what it must be, and that in words."""
    return {
        "prompt": (kind_of(str), "a text"),
        "infill": (kind_of(bool), "true or false"),
        "stream": (kind_of(bool), "true or false"),
        "samples": (within(1, limits.samples), f"1 to {limits.samples}"),
        "seed": (within(-(2**63), 2**63 - 1), "an integer of 64 bits"),
        "length": (within(1, limits.length), f"1 to {limits.length}"),
        "steps": (within(1, limits.steps), f"1 to {limits.steps}"),
        "unmasking": (kind_of(str), "the name of a policy"),
        "temperature": (within(0, 100, whole=False), "0 to 100"),
        "top_p": (lambda value: within(0, 1, whole=False)(value) and value != 0, "more than 0 and at most 1"),
        "top_k": (within(1, 2**31 - 1), "1 or more"),
    }


def parsed(body: bytes, limits: Limits) -> Request:
    """Raises: Refusal naming the first thing that is wrong."""
    try:
        given = json.loads(body, parse_constant=lambda _: math.nan)
    except (ValueError, RecursionError):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the body is not JSON; send an object") from None
    if not isinstance(given, dict):
        raise Refusal(HTTPStatus.BAD_REQUEST, 'the body is no object; send {"prompt": …}')
    fields = fields_of(limits)
    for key, value in given.items():
        if key not in fields:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"unknown key {key[:40]!r}; wanted some of {', '.join(fields)}")
        fits, words = fields[key]
        if not fits(value):
            raise Refusal(HTTPStatus.BAD_REQUEST, f"{key}: got {json.dumps(value)[:40]}, wanted {words}")
    chosen = {name: given[name] for name in ("prompt", "samples", "seed", "length", "infill") if name in given}
    options = {name: given.get("steps" if name == "num_sampling_steps" else name) for name in OPTIONS}
    return Request(Order(**chosen), options, given.get("stream", False))


# Who is served when


class Rates:
    """A bucket of tokens for each address: `rate` a minute, and as many at once."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.clock, self._lock = rate, clock, threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, address: str) -> None:
        """Raises: Refusal when the address has asked too often."""
        with self._lock:
            now = self.clock()
            tokens, since = self._buckets.pop(address, (float(self.rate), now))
            tokens = min(float(self.rate), tokens + (now - since) * self.rate / 60)
            self._buckets[address] = (max(0.0, tokens - 1) if tokens >= 1 else tokens, now)
            while len(self._buckets) > CLIENTS:
                del self._buckets[next(iter(self._buckets))]
        if tokens < 1:
            wait_s = math.ceil((1 - tokens) * 60 / self.rate)
            line = f"more than {self.rate} requests a minute; try again in {wait_s} s"
            raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, line, wait_s)


class Turns:
    """One text at a time, and a short queue."""

    def __init__(self, waiting: int) -> None:
        self.most, self.waiting, self.is_busy, self.is_closed = waiting, 0, False, False
        self._changed = threading.Condition()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Raises: Refusal when too many wait, or the server is shutting down."""
        self._enter()
        try:
            yield
        finally:
            with self._changed:
                self.is_busy = False
                self._changed.notify_all()

    def _enter(self) -> None:
        with self._changed:
            if self.is_busy and self.waiting >= self.most:
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"{self.waiting} texts wait already; try again", 5)
            self.waiting += 1
            try:
                self._changed.wait_for(lambda: self.is_closed or not self.is_busy)
            finally:
                self.waiting -= 1
            if self.is_closed:
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "shutting down; try again later", 5)
            self.is_busy = True

    def close(self) -> None:
        """Whoever waits is turned away; the text that is being written is finished."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()
