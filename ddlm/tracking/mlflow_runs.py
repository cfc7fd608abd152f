"""Runs in MLflow. No global state of MLflow's is used: stages run in parallel threads, each with its own run id.

MLflow's client cuts a `log_batch` into requests of the size that its servers take.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from ddlm.tracking.backends import NewRun, Row, Status
from ddlm.tracking.mlflow_client import artifact_root, connect, is_http, reaching, resolve_uri
from ddlm.tracking.provenance import without_password
from ddlm.tracking.spool import SPOOL_ID

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

PARAM_CHARACTERS, TAG_CHARACTERS = 6000, 5000
"""MLflow's limits; older servers take less of a tag than newer ones."""


class MlflowRuns:
    """The backend `mlflow`."""

    client: "MlflowClient"

    def __init__(self, uri: str | None) -> None:
        self._uri = resolve_uri(uri)
        self.store = without_password(self._uri)

    def open(self) -> None:
        self.client = connect(self._uri)

    def start(self, run: NewRun) -> str:
        with self.reaching():
            experiment_id = self._experiment_id(run.experiment)
            run_id = self._spooled_before(run.tags, experiment_id) or self._create(run, experiment_id)
            self._log_params(run_id, run.params)
            return run_id

    def metrics(self, run: str, rows: Sequence[Row]) -> None:
        """MLflow keeps one of several equal rows, so that sending twice is harmless."""
        from mlflow.entities import Metric

        with self.reaching():
            metrics = [Metric(row.key, row.value, row.time_ms, row.step) for row in rows]
            self.client.log_batch(run, metrics=metrics, synchronous=True)

    def tag(self, run: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        with self.reaching():
            stored = [RunTag(*tag) for tag in shortened(tags, TAG_CHARACTERS).items()]
            self.client.log_batch(run, tags=stored, synchronous=True)

    def upload(self, run: str, path: str, folder: str) -> None:
        with self.reaching():
            if Path(path).is_dir():
                self.client.log_artifacts(run, path, f"{folder}/{Path(path).name}".lstrip("/"))
            else:
                self.client.log_artifact(run, path, folder or None)

    def end(self, run: str, status: Status, time_ms: int) -> None:
        with self.reaching():
            self.client.set_terminated(run, status, time_ms)

    def reaching(self) -> AbstractContextManager[None]:
        """Around calls of `client`: failures become Unavailable or Refused."""
        return reaching(self._uri)

    def close(self) -> None:
        """MLflow's client holds nothing open."""

    def _experiment_id(self, name: str) -> str:
        """MLflow's experiment of that name, made when missing and restored when deleted."""
        found = self.client.get_experiment_by_name(name) or self._create_experiment(name)
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _create_experiment(self, name: str) -> "Experiment":
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_experiment(name, None if is_http(self._uri) else f"{artifact_root()}/{name}")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was quicker
                raise
        found = self.client.get_experiment_by_name(name)
        assert found
        return found

    def _create(self, run: NewRun, experiment_id: str) -> str:
        parent = {"mlflow.parentRunId": run.parent} if run.parent else {}
        tags = shortened({**run.tags, **_own_tags(run.tags), **parent}, TAG_CHARACTERS)
        return str(self.client.create_run(experiment_id, run.time_ms, tags, run.name).info.run_id)

    def _log_params(self, run: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        stored = [Param(*param) for param in shortened(params, PARAM_CHARACTERS).items()]
        self.client.log_batch(run, params=stored, synchronous=True)

    def _spooled_before(self, tags: Mapping[str, str], experiment_id: str) -> str | None:
        """The run that an interrupted replay has already opened."""
        if SPOOL_ID not in tags:
            return None
        found = self.client.search_runs([experiment_id], f"tags.`{SPOOL_ID}` = '{tags[SPOOL_ID]}'", max_results=1)
        return found[0].info.run_id if found else None


def shortened(values: Mapping[str, str], characters: int) -> dict[str, str]:
    """Values cut to a length, an ellipsis at the cut."""
    return {key: value if len(value) <= characters else f"{value[: characters - 1]}…" for key, value in values.items()}


def _own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that MLflow's pages show under names of their own."""
    names = {"git.commit": "mlflow.source.git.commit", "command": "mlflow.source.name"}
    return {"mlflow.source.type": "LOCAL", **{name: tags[key] for key, name in names.items() if key in tags}}
