"""What a run's page in Prefect shows while stages are built: where they are tracked, how far a training has come."""

import logging
import threading
from collections.abc import Mapping
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from uuid import UUID

import httpx
from prefect.artifacts import create_link_artifact, create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from prefect.runtime import deployment, flow_run
from prefect.utilities.urls import url_for

from ddlm.artifacts import RunLog
from ddlm.experiment.stages import Session
from ddlm.tracking.mlflow_runs import FLOW_RUN_ID, FLOW_RUN_URL
from tasks.summary import slug

logger = logging.getLogger("ddlm.flows")  # shown as the library's lines are

FAULTS = (httpx.HTTPError, PrefectException, OSError)
"""What a server that is away raises: it costs a run its bar, and nothing else."""
SEND_EVERY_S = 10.0
LAST_WORDS_S = 5.0
"""How long an ended training waits for its page."""
LINKED: set[str] = set()
"""Tracked runs that have their link: several stages may begin side by side."""
NOTED = ("val/nll_nats", "train/nll_nats")


def flow_run_tags() -> dict[str, str]:
    """What a tracked run is told of its flow run: the id, how it was started, and its address, if it has a page."""
    tags = {FLOW_RUN_ID: str(flow_run.id)}
    if deployment.name:
        tags["command"] = f"prefect deployment run {flow_run.flow_name}/{deployment.name}"
    address = url_for("flow-run", obj_id=flow_run.id)
    return tags | {FLOW_RUN_URL: address} if address else tags


def link_to_tracked_run(session: Session) -> None:
    """A link to the session's run on its tracking server, once, where that has pages."""
    address = session.tracker.address()
    if address and address not in LINKED:
        LINKED.add(address)
        try:
            create_link_artifact(address, key=slug(session.experiment.name, "tracked"), link_text="The tracked run")
        except FAULTS as error:
            logger.debug("no link to the tracked run: %s", error)


class TrainingBar:
    """A bar that moves with the steps of a training, as a context around its stage. Nothing, where that is cached.

    A thread of its own sends the newest step, so that no report of the training waits for a server.
    """

    def __init__(self, session: Session) -> None:
        self._key, self._total = slug(session.experiment.name, "training"), session.experiment.training.steps
        self._step, self._note = 0, "starting"
        self._shown: tuple[UUID, int] | None = None
        self._ended = threading.Event()
        self._sender = threading.Thread(target=copy_context().run, args=(self._send_until_ended,), daemon=True)

    def watch(self, log: RunLog) -> RunLog:
        """The training begins, and reports to this."""
        self._sender.start()
        return Watched(log, self)

    def move(self, metrics: Mapping[str, float], step: int) -> None:
        nats = next((f", {metrics[name]:.3f} nats a token" for name in NOTED if name in metrics), "")
        self._note, self._step = f"step {step:,} of {self._total:,}{nats}", step

    def __enter__(self) -> "TrainingBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sender.is_alive():
            self._step = self._step if error else self._total  # patience, or a clock, may end it before its steps
            self._ended.set()
            self._sender.join(LAST_WORDS_S)

    def _send_until_ended(self) -> None:
        self._send_if_possible()
        while not self._ended.wait(SEND_EVERY_S):
            self._send_if_possible()
        self._send_if_possible()

    def _send_if_possible(self) -> None:
        try:
            self._send(self._step)
        except FAULTS as error:
            logger.debug("the bar was not moved: %s", error)

    def _send(self, step: int) -> None:
        percent = 100 * step / self._total
        if self._shown is None:
            self._shown = create_progress_artifact(percent, self._key, self._note), step
        elif step != self._shown[1]:
            update_progress_artifact(self._shown[0], percent, self._note)
            self._shown = self._shown[0], step


@dataclass(frozen=True)
class Watched:
    """A training's log that moves a bar, too."""

    inner: RunLog
    bar: TrainingBar

    @property
    def id(self) -> str | None:
        return self.inner.id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.inner.log(metrics, step)
        self.bar.move(metrics, step)

    def upload(self, path: Path, folder: str) -> None:
        self.inner.upload(path, folder)
