"""publish: a registered model version; `champion` moves only to a better one."""

from typing import Any

from prefect import Task, task
from prefect.client.schemas.objects import TaskRun
from prefect.states import State

from ddlm.artifacts import Artifact
from ddlm.experiment.stages import Session
from ddlm.tracking.backends import Unavailable
from tasks.stage import OPTIONS, build, is_transient


def is_not_waited_for(task: Task, task_run: TaskRun, state: State) -> bool:
    """Whether to try again: the stage has waited for a registry that was away for `tracking.wait_minutes` already."""
    error: Any = state.result(raise_on_failure=False)
    return not isinstance(error, Unavailable) and is_transient(task, task_run, state)


@task(name="publish", **OPTIONS | {"retry_condition_fn": is_not_waited_for})
def publish(session: Session, corpus: Artifact, train: Artifact, evaluate: Artifact, export: Artifact) -> Artifact:
    return build(session, "publish", corpus, train, evaluate, export)
