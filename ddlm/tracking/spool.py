"""Runs as lines of JSON: the backend `jsonl`, and the spool that keeps what a store could not take."""

import fcntl
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from ddlm.config import home
from ddlm.tracking.backends import Backend, Dataset, NewRun, Refused, Row, Status, now_ms

logger = logging.getLogger(__name__)

SPOOL_ID = "ddlm.spool_id"
"""A tag of every run that was first spooled, so that a replay which was interrupted does not open it twice."""
NOTES = ("open", "closed")
"""Lines that are not sent: which runs the store holds open."""


class EventFile:
    """One file a parent run, one line a call. The file is locked as long as its writer lives.

    name: the file's; the first run's id when absent. store: which store the lines are meant for.
    """

    keeps_open = False

    def __init__(self, folder: Path, store: str, name: str | None = None) -> None:
        self.folder, self.store, self.name = folder, store, name
        self.started: set[str] = set()
        self._handle: TextIO | None = None

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.jsonl"

    def open(self) -> None:
        """Nothing to do before the first line."""

    def start(self, run: NewRun) -> str:
        run_id = uuid4().hex
        self.name = self.name or run_id
        self.started.add(run_id)
        self.write("start", run_id, **run._replace(tags={**run.tags, SPOOL_ID: run_id})._asdict())
        return run_id

    def metrics(self, run: str, rows: Sequence[Row]) -> None:
        self.write("metrics", run, rows=rows)

    def tag(self, run: str, tags: Mapping[str, str]) -> None:
        self.write("tag", run, tags=dict(tags))

    def use(self, run: str, dataset: Dataset) -> None:
        self.write("use", run, dataset=dataset._asdict())

    def upload(self, run: str, path: str, folder: str) -> None:
        self.write("upload", run, path=path, folder=folder)

    def end(self, run: str, status: Status, time_ms: int) -> None:
        self.write("end", run, status=status, time_ms=time_ms)

    def address(self, run: str, file: str) -> str | None:
        """Lines have no pages."""

    def write(self, call: str, run: str, **arguments: Any) -> None:
        if self._handle is None:
            self._handle = self._create()
        self._handle.write(json.dumps({"call": call, "run": run, "arguments": arguments}) + "\n")
        self._handle.flush()

    def _create(self) -> TextIO:
        """Locked before it has its name: who looks for files of dead writers never finds it unlocked."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / f".{self.name}.{os.getpid()}.tmp"
        handle = fresh.open("a", encoding="utf-8")
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.write(json.dumps({"store": self.store}) + "\n")
        fresh.rename(self.path)
        return handle

    def close(self) -> None:
        """Close the file, which frees it for replay."""
        if self._handle is not None:
            self._handle.close()


class JsonLines(EventFile):
    """The backend `jsonl`: `tracking/<run id>.jsonl` in the home folder."""

    def __init__(self, uri: str | None) -> None:
        del uri
        super().__init__(home() / "tracking", "jsonl")


class Spool(EventFile):
    """What could not be sent, and the runs that the store holds open for its writer, who may die before ending them.

    Never fails: where its disk does, it says so once and lets go.
    """

    def __init__(self, folder: Path, store: str, name: str | None = None) -> None:
        super().__init__(folder, store, name)
        self._open: set[str] = set()
        self._has_calls = False
        self._is_lost = False
        self._is_closed = False

    @property
    def owes_more(self) -> bool:
        """Whether a replay has anything to send."""
        return self._has_calls or bool(self._open)

    def note_open(self, run: str) -> None:
        """The store has opened this run."""
        self._open.add(run)
        self.write("open", run)

    def note_closed(self, run: str) -> None:
        self._open.discard(run)
        self.write("closed", run)

    def write(self, call: str, run: str, **arguments: Any) -> None:
        if self._is_closed:  # by a thread that outlived its run
            return
        is_note = call in NOTES
        self._has_calls |= not is_note
        try:
            super().write(call, run, **arguments)
        except OSError as error:
            if not self._is_lost and not is_note:
                logger.warning("tracking: %s can't be written either (%s); metrics are lost", self.folder, error)
            self._is_lost |= not is_note

    def close(self) -> None:
        """Close the file, which frees it for replay; with nothing to send, it is gone."""
        if self._handle is not None and not self.owes_more:
            self.path.unlink(missing_ok=True)
        self._is_closed = True
        super().close()


def replay(backend: Backend, folder: Path) -> int:
    """Send every spool file of this store that no living process writes, and remove it. Returns how many.

    A file that the store refuses is set aside as `.rejected` and named. Raises: TrackingError or OSError when the
    store fails; the file stays, and sending it again is harmless.
    """
    sent = 0
    for path in sorted(folder.glob("*.jsonl")):
        try:
            sent += _send_file(backend, path)
        except FileNotFoundError:  # another process has just sent it
            continue
        except Refused as error:
            path.rename(path.with_suffix(".rejected"))
            logger.warning("tracking: %s, so %s was set aside as .rejected", error, path)
    return sent


def _send_file(backend: Backend, path: Path) -> bool:
    with path.open(encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        header, *lines = handle.read().split("\n")[:-1]  # what follows the last newline was cut off by a kill
        if json.loads(header)["store"] != backend.store:
            return False
        _send(backend, [json.loads(line) for line in lines])
        path.unlink()
        return True


def _send(backend: Backend, events: Sequence[Mapping[str, Any]]) -> None:
    """Make the calls anew, with the ids that the store gives. A run whose writer died before its end was killed."""
    ids: dict[str, str] = {}
    running: set[str] = set()
    for event in events:
        call, run, arguments = event["call"], event["run"], event["arguments"]
        if call == "start":
            new = NewRun(**arguments)
            ids[run] = backend.start(new._replace(parent=ids.get(new.parent or "", new.parent)))
        elif call not in NOTES:
            CALLS[call](backend, ids.get(run, run), **arguments)
        if call in ("start", "open"):
            running.add(run)
        elif call in ("end", "closed"):
            running.discard(run)
    for run in running:
        backend.end(ids.get(run, run), "KILLED", now_ms())


def _metrics(backend: Backend, run: str, rows: Sequence[Sequence[Any]]) -> None:
    backend.metrics(run, [Row(*row) for row in rows])


def _upload(backend: Backend, run: str, path: str, folder: str) -> None:
    if Path(path).exists():
        backend.upload(run, path, folder)
    else:
        logger.warning("tracking: %s of a spooled run is gone and can't be sent", path)


CALLS: Mapping[str, Callable[..., None]] = {
    "metrics": _metrics,
    "tag": lambda backend, run, tags: backend.tag(run, tags),
    "use": lambda backend, run, dataset: backend.use(run, Dataset(**dataset)),
    "upload": _upload,
    "end": lambda backend, run, status, time_ms: backend.end(run, status, time_ms),
}
