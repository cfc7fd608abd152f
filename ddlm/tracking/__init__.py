"""Where runs are remembered: one parent run an experiment run, a nested run a stage. Tracking never stops a run."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ddlm.config import EXECUTION_ONLY, LocalPath, Section, home
from ddlm.tracking.backends import Backend, Nothing, Status
from ddlm.tracking.mlflow_runs import MlflowRuns
from ddlm.tracking.outbox import Outbox
from ddlm.tracking.provenance import flat, origin
from ddlm.tracking.spool import JsonLines
from ddlm.tracking.wandb_runs import WandbRuns

BACKENDS: Mapping[str, Callable[[str | None], Backend]] = {
    "mlflow": MlflowRuns,
    "wandb": WandbRuns,
    "jsonl": JsonLines,
    "none": Nothing,
}
"""Each takes the uri."""


class TrackingConfig(Section):
    """`[tracking]`."""

    backend: Literal["mlflow", "wandb", "jsonl", "none"] = "mlflow"
    uri: LocalPath | None = None
    """An MLflow server or store; `mlflow.db` in the home folder when absent. With wandb, its server."""
    flush_every_s: float = Field(default=10.0, gt=0, json_schema_extra=EXECUTION_ONLY)


class StageRun:
    """A stage's run, as `ddlm.artifacts.RunLog` asks for it."""

    def __init__(self, outbox: Outbox, run: str) -> None:
        self._outbox, self._run = outbox, run

    @property
    def id(self) -> str | None:
        """The id in the store; None where nothing is tracked, or only kept for later."""
        return self._outbox.known(self._run)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue named values (`train/nll_nats`) with the present time; returns at once."""
        self._outbox.log(self._run, metrics, step)

    def upload(self, path: Path, folder: str) -> None:
        """Keep a file with the run."""
        self._outbox.upload(self._run, path, folder)


class Tracker:
    """Follows one run of an experiment. Nothing is imported or opened before a stage really builds.

    params: the resolved config, nested. tags: known from outside, like the Prefect flow run.
    Raises: UserError when the backend's package is missing or the uri is of a kind that it refuses.
    """

    def __init__(
        self, config: TrackingConfig, *, experiment: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        self._outbox = Outbox(BACKENDS[config.backend](config.uri), experiment, home() / "spool", config.flush_every_s)
        self._experiment, self._params, self._tags = experiment, params, tags
        self._lock = threading.Lock()
        self._parent: str | None = None
        self._ended = False

    @property
    def run_id(self) -> str | None:
        """The parent run's id in the store, None when there is none (yet)."""
        return self._outbox.known(self._parent)

    def address(self, file: str = "") -> str | None:
        """Where a browser finds the parent run or one of its files; None where nothing serves it."""
        return self._outbox.address(self._parent, file)

    @contextmanager
    def stage(self, name: str) -> Iterator[StageRun]:
        """A nested run around the building of a stage; safe in parallel threads."""
        run = self._outbox.start(name, self._open(), {}, {"ddlm.stage": name})
        try:
            yield StageRun(self._outbox, run)
        except BaseException as error:
            self._outbox.end(run, "FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        self._outbox.end(run, "FINISHED")

    def finish(
        self,
        scores: Mapping[str, float],
        uploads: Sequence[tuple[Path, str]] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Close the parent run with the final scores, tags, and files or folders (path, where in the run)."""
        if self._parent is None or self._ended:
            return
        self._outbox.log(self._parent, scores, step=0)
        self._outbox.tag(self._parent, tags or {})
        for path, folder in uploads:
            self._outbox.upload(self._parent, path, folder)
        self.close("FINISHED")

    def fail(self) -> None:
        """Close the parent run of an experiment that ended by an error."""
        self.close("FAILED")

    def close(self, status: Status) -> None:
        """Close the parent run; only the first call counts, and none if no stage was built."""
        if self._parent is None or self._ended:
            return
        self._ended = True
        self._outbox.end(self._parent, status)
        self._outbox.close()

    def _open(self) -> str:
        with self._lock:
            assert not self._ended, "a tracker follows one run"
            if self._parent is None:
                self._outbox.open()
                tags = {"ddlm.experiment": self._experiment, **origin(), **self._tags}
                self._parent = self._outbox.start(self._experiment, None, flat(self._params), tags)
            return self._parent
