"""What a store of runs must be able to do."""

import time
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from ddlm.config import Unreachable

Status = Literal["FINISHED", "FAILED", "KILLED"]


class TrackingError(Exception):
    """A store did not take what it was given. One line, without credentials."""


class Unavailable(TrackingError, Unreachable):
    """The store can't be reached or can't write now; the same call may succeed later."""


class Refused(TrackingError, ValueError):
    """The store answered, and will answer the same next time."""


class Row(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    step: int
    time_ms: int


class NewRun(NamedTuple):
    """A run of an experiment to open. `parent` is the id of the run that it belongs to."""

    experiment: str
    name: str
    parent: str | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    time_ms: int


class Dataset(NamedTuple):
    """Data that a run reads. role: training or evaluation. source: where it comes from. counts: stories, tokens…"""

    name: str
    digest: str
    role: str
    source: str
    counts: Mapping[str, float]


class Backend(Protocol):
    """A store of runs. Every call may raise TrackingError or OSError, and may come from any thread.

    store: names the store in messages and spool files; without credentials.
    keeps_open: whether a run of a writer who died stays open there until somebody else ends it.
    """

    store: str
    keeps_open: bool

    def open(self) -> None:
        """Import what is needed and see quickly whether the store answers."""

    def start(self, run: NewRun) -> str:
        """Open a run. Returns its id, empty where nothing is kept."""

    def metrics(self, run: str, rows: Sequence[Row]) -> None:
        """Store values with their own times."""

    def tag(self, run: str, tags: Mapping[str, str]) -> None: ...

    def use(self, run: str, dataset: Dataset) -> None:
        """Say that the run reads this data."""

    def upload(self, run: str, path: str, folder: str) -> None:
        """Keep a file or a folder by its own name under `folder` in the run; at the top when that is empty."""

    def end(self, run: str, status: Status, time_ms: int) -> None: ...

    def address(self, run: str, file: str) -> str | None:
        """Where a browser finds a run that was started here, or its file of that name; None without a server."""

    def close(self) -> None:
        """Let go of what `open` took; nothing is sent after it."""


class Nothing:
    """The backend `none`."""

    store = "none"
    keeps_open = False

    def __init__(self, uri: str | None) -> None:
        del uri

    def open(self) -> None:
        pass

    def start(self, run: NewRun) -> str:
        del run
        return ""

    def metrics(self, run: str, rows: Sequence[Row]) -> None:
        pass

    def tag(self, run: str, tags: Mapping[str, str]) -> None:
        pass

    def use(self, run: str, dataset: Dataset) -> None:
        pass

    def upload(self, run: str, path: str, folder: str) -> None:
        pass

    def end(self, run: str, status: Status, time_ms: int) -> None:
        pass

    def address(self, run: str, file: str) -> str | None:
        pass

    def close(self) -> None:
        pass


def now_ms() -> int:
    return int(time.time() * 1000)
