"""What the eight tasks share: the key, the retries, and how a stage says that nothing had to be built."""

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import requests
from prefect import Task
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.futures import wait
from prefect.settings import get_current_settings
from prefect.states import Completed, State
from prefect.tasks import exponential_backoff

from ddlm.artifacts import Artifact, RunLog
from ddlm.config import UserError
from ddlm.experiment.stages import STAGES, Session
from tasks.page import link_to_tracked_run

logger = logging.getLogger("ddlm.tasks")  # shown as the library's lines are
TRANSIENT = (ConnectionError, TimeoutError, httpx.TransportError, requests.ConnectionError, requests.Timeout)
"""What the network breaks; huggingface_hub speaks httpx, mlflow speaks requests."""


@dataclass
class ArtifactPolicy(CachePolicy):
    """Prefect's key is the store's key, and its record of a result counts as long as the store says the same."""

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],  # noqa: ARG002, Prefect's signature
        **kwargs: Any,  # noqa: ARG002
    ) -> str | None:
        """None when the key can't be known: the task meets the same error and reports it."""
        session, name = inputs["session"], task_ctx.task.name
        artifacts = [value for value in inputs.values() if isinstance(value, Artifact)]
        try:
            key = f"{name}-{session.key(name, artifacts)}"
            found = session.find(name, artifacts)
        except (UserError, *TRANSIENT):
            return None
        # A side effect, since this is Prefect's only question before it trusts its record, and the record outlives the
        # artifact: collected, damaged, forced, moved, or rebuilt by a run without Prefect.
        store = task_ctx.result_store
        if store.exists(key) and store.read(key).result != found:
            (Path(get_current_settings().results.local_storage_path) / key).unlink()
        return key


def is_transient(task: Task, task_run: TaskRun, state: State) -> bool:  # noqa: ARG001, Prefect's signature
    """Whether to try again: what the world breaks, never what we break."""
    return any(isinstance(error, TRANSIENT) for error in causes(state.result(raise_on_failure=False)))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from: mlflow wraps a lost connection. A user's mistake has no cause."""
    while error is not None and not isinstance(error, ValueError):
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}
OPTIONS: dict[str, Any] = {
    "cache_policy": ArtifactPolicy(),
    "persist_result": True,
    "result_serializer": "json",
    **RETRIES,
}


def build(session: Session, name: str, *inputs: Artifact, watched: Callable[[RunLog], RunLog] = lambda log: log) -> Any:
    """The stage's artifact; in a state named Cached when the store had it though Prefect had no record.

    watched: makes the log that the stage gets from its own.
    """

    def begin(log: RunLog) -> RunLog:
        link_to_tracked_run(session)
        return watched(log)

    logging.getLogger("ddlm").setLevel(logging.INFO)  # Prefect passes the library's lines on, but sets no level
    artifact, built = session.run(name, inputs, begin)
    if built:
        logger.info("%s: built", name)
    return artifact if built else Completed(name="Cached", data=artifact)


@dataclass
class Progress:
    """How far a flow has come. Stages that are not wanted are passed over."""

    session: Session
    wanted: Collection[str]
    done: dict[str, Artifact] = field(default_factory=dict)

    def run(self, *stages: Task) -> None:
        """Several stages run side by side; one alone stays on the main thread, where Ctrl-C reaches it.

        Raises: what the first failed stage raised, once all have ended.
        """
        wanted = [stage for stage in stages if stage.name in self.wanted]
        if len(wanted) == 1:
            ended = {stage.name: stage(**self._arguments(stage), return_state=True) for stage in wanted}
        else:
            ended = {stage.name: stage.submit(**self._arguments(stage)) for stage in wanted}
            wait(list(ended.values()))
        for name, end in ended.items():
            self.done[name] = end.result()
            if name not in self.session.built:
                logger.info("%s: cached", name)

    def _arguments(self, stage: Task) -> dict[str, Any]:
        return {"session": self.session} | {name: self.done[name] for name in STAGES[stage.name].inputs}
