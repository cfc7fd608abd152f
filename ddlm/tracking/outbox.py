"""Takes what runs report and delivers it from a thread of its own; what can't be delivered is spooled."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ddlm.tracking.aliases import with_aliases
from ddlm.tracking.backends import Backend, Dataset, NewRun, Row, Status, TrackingError, now_ms
from ddlm.tracking.spool import EventFile, Spool, replay

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 30.0
"""How long a store that failed is left alone: a server that is down costs its timeout only so often."""
FAILURES = (TrackingError, OSError)

T = TypeVar("T")


class Outbox:
    """One run's way to its store. Thread-safe; nothing here raises because of a store."""

    def __init__(self, backend: Backend, experiment: str, spool_folder: Path, flush_every_s: float) -> None:
        self._backend, self._experiment = backend, experiment
        self._spool = Spool(spool_folder, backend.store)
        self._flush_every_s = flush_every_s
        self._pending: deque[tuple[str, Row]] = deque()
        self._lock = threading.RLock()
        self._left_alone_until = 0.0
        self._has_warned = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ddlm-tracking", daemon=True)

    def open(self) -> None:
        """Reach for the store once; if it does not answer, the whole run goes to the spool."""
        try:
            self._backend.open()
        except FAILURES as error:
            self._give_up(error, for_s=float("inf"))
        self._thread.start()

    def known(self, run: str | None) -> str | None:
        """The id as the store knows it, None for a run that only the spool knows."""
        return None if not run or run in self._spool.started else run

    def address(self, run: str | None, file: str = "") -> str | None:
        """Where a browser finds the run or one of its files; None where nothing serves it, or not yet."""
        known = self.known(run)
        return self._backend.address(known, file) if known else None

    def start(self, name: str, parent: str | None, params: Mapping[str, str], tags: Mapping[str, str]) -> str:
        new = NewRun(self._experiment, name, parent, params, tags, now_ms())
        with self._lock:
            run = self._deliver(parent, lambda store: store.start(new))
            self._spool.name = self._spool.name or run
            if self._is_open_there(run):
                self._spool.note_open(run)
            return run

    def log(self, run: str, metrics: Mapping[str, float], step: int) -> None:
        """Queue values with the present time, also under the names that other tools give them. Never waits."""
        time_ms = now_ms()
        metrics = with_aliases(metrics)
        self._pending.extend((run, Row(key, float(value), step, time_ms)) for key, value in metrics.items())

    def flush(self) -> None:
        """Deliver what is queued; returns when a flush under way elsewhere is over too."""
        with self._lock:
            rows: dict[str, list[Row]] = {}
            while self._pending:
                run, row = self._pending.popleft()
                rows.setdefault(run, []).append(row)
            for run, batch in rows.items():
                self._metrics(run, batch)

    def tag(self, run: str, tags: Mapping[str, str]) -> None:
        self._deliver(run, lambda store: store.tag(run, tags))

    def use(self, run: str, dataset: Dataset) -> None:
        self._deliver(run, lambda store: store.use(run, dataset))

    def upload(self, run: str, path: Path, folder: str) -> None:
        self._deliver(run, lambda store: store.upload(run, str(path.resolve()), folder))

    def end(self, run: str, status: Status) -> None:
        """Deliver what is queued, then end the run."""
        time_ms = now_ms()
        self.flush()
        with self._lock:
            self._deliver(run, lambda store: store.end(run, status, time_ms))
            if self._is_open_there(run):
                self._spool.note_closed(run)

    def close(self) -> None:
        """Stop the thread and give what was spooled one more chance."""
        self._stop.set()
        self._thread.join()
        self.flush()
        self._spool.close()
        if self._spool.owes_more:
            self._replay(reopen=True)
        self._backend.close()

    def _is_open_there(self, run: str) -> bool:
        """Whether somebody must end the run in its store if this process can't."""
        return self._backend.keeps_open and self.known(run) is not None

    def _metrics(self, run: str, rows: list[Row]) -> None:
        self._deliver(run, lambda store: store.metrics(run, rows))

    def _deliver(self, run: str | None, send: Callable[[Backend | EventFile], T]) -> T:
        """Send to the store, or to the spool if that fails or the store knows nothing of the run."""
        with self._lock:
            if run not in self._spool.started and time.monotonic() >= self._left_alone_until:
                try:
                    return send(self._backend)
                except FAILURES as error:
                    self._give_up(error, for_s=RETRY_AFTER_S)
            return send(self._spool)

    def _give_up(self, error: Exception, *, for_s: float) -> None:
        self._left_alone_until = time.monotonic() + for_s
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "tracking: %s; the run goes on, its metrics wait in %s for a later run that reaches the store",
                error, self._spool.folder,
            )  # fmt: skip

    def _work(self) -> None:
        if self._left_alone_until == 0.0:
            self._replay()
        while not self._stop.wait(self._flush_every_s):
            self.flush()

    def _replay(self, *, reopen: bool = False) -> None:
        try:
            if reopen:
                self._backend.open()
            sent = replay(self._backend, self._spool.folder)
        except FAILURES as error:
            logger.debug("tracking: the spool stays: %s", error)
            return
        if sent:
            logger.info("tracking: %s now knows of %d run(s) that were cut off from it", self._backend.store, sent)
