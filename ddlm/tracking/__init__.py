"""Where runs are remembered: one run an experiment run, with all its stages. Tracking never stops a run."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ddlm.config import EXECUTION_ONLY, LocalPath, Section, home
from ddlm.tracking.backends import Backend, Dataset, Nothing, Status
from ddlm.tracking.mlflow_runs import MlflowRuns
from ddlm.tracking.outbox import Outbox
from ddlm.tracking.provenance import flat, origin
from ddlm.tracking.spool import JsonLines
from ddlm.tracking.system import SystemWatch
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
    promotion: Literal["automatic", "by hand"] = "automatic"
    """Whether a better version becomes champion by itself, or waits for `ddlm registry promote`."""
    wait_minutes: float = Field(default=3.0, ge=0, le=1440, json_schema_extra=EXECUTION_ONLY)
    """How long publishing waits for MLflow while it is away."""
    system_metrics: bool = Field(default=True, json_schema_extra=EXECUTION_ONLY)
    """Whether MLflow is told how busy processor, memory, disk, network and, with nvidia-ml-py, the GPU are."""
    flush_every_s: float = Field(default=10.0, gt=0, le=86400, json_schema_extra=EXECUTION_ONLY)


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

    params: the resolved config, nested. tags: known from outside, like the Prefect flow run. name: of the run, where
    it is not the experiment's.
    Raises: UserError when the backend's package is missing or the uri is of a kind that it refuses.
    """

    def __init__(
        self,
        config: TrackingConfig,
        *,
        experiment: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        name: str | None = None,
    ) -> None:
        self._outbox = Outbox(BACKENDS[config.backend](config.uri), experiment, home() / "spool", config.flush_every_s)
        self._experiment, self._params, self._tags = experiment, params, tags
        self._name = name or experiment
        self._watch = SystemWatch(self._outbox) if config.system_metrics and config.backend == "mlflow" else None
        self._lock = threading.Lock()
        self._run: str | None = None
        self._ended = False

    @property
    def run_id(self) -> str | None:
        """The run's id in the store, None when there is none (yet)."""
        return self._outbox.known(self._run)

    @property
    def has_run(self) -> bool:
        """Whether anything is tracked, in the store or kept for later: a run that built nothing is not."""
        return bool(self._run)

    def address(self, file: str = "") -> str | None:
        """Where a browser finds the run or one of its files; None where nothing serves it."""
        return self._outbox.address(self._run, file)

    @contextmanager
    def stage(self, name: str) -> Iterator[StageRun]:
        """The run, around the building of a stage, which it times; safe in parallel threads."""
        run, started = self._open(), time.monotonic()
        try:
            yield StageRun(self._outbox, run)
        except BaseException:
            self._outbox.tag(run, {"ddlm.failed_stage": name})
            raise
        finally:
            self._outbox.log(run, {f"stage/{name}_s": time.monotonic() - started}, step=0)
            self._outbox.flush()

    def finish(
        self,
        scores: Mapping[str, float],
        uploads: Sequence[tuple[Path, str]] = (),
        tags: Mapping[str, str] | None = None,
        datasets: Sequence[Dataset] = (),
    ) -> None:
        """Close the run with the final scores, tags, data, and files or folders (path, where in the run)."""
        if self._run is None or self._ended:
            return
        self._outbox.log(self._run, scores, step=0)
        self._outbox.tag(self._run, tags or {})
        for dataset in datasets:
            self._outbox.use(self._run, dataset)
        for path, folder in uploads:
            self._outbox.upload(self._run, path, folder)
        self.close("FINISHED")

    def fail(self) -> None:
        """Close the run of an experiment that ended by an error."""
        self.close("FAILED")

    def close(self, status: Status) -> None:
        """Close the run; only the first call counts, and none if no stage was built."""
        if self._run is None or self._ended:
            return
        self._ended = True
        if self._watch:
            self._watch.stop()
        self._outbox.end(self._run, status)
        self._outbox.close()

    def _open(self) -> str:
        with self._lock:
            assert not self._ended, "a tracker follows one run"
            if self._run is None:
                self._outbox.open()
                tags = {"ddlm.experiment": self._experiment, **origin(), **self._tags}
                self._run = self._outbox.start(self._name, None, flat(self._params), tags)
                if self._watch:
                    self._watch.start(self._run)
            return self._run
