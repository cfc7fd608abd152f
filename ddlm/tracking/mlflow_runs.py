"""Runs in MLflow. No global state of MLflow's is used: stages run in parallel threads, each with its own run id.

MLflow's client cuts a `log_batch` into requests of the size that its servers take.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from ddlm.tracking.backends import Dataset, NewRun, Row, Status
from ddlm.tracking.mlflow_client import artifact_root, connect, is_http, reaching, resolve_uri
from ddlm.tracking.provenance import without_login, without_password
from ddlm.tracking.spool import SPOOL_ID

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

FLOW_RUN_ID = "prefect.flow_run_id"
FLOW_RUN_URL = "prefect.flow_run_url"
"""A tag that MLflow's page of a run shows as a link, in its description."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""MLflow opens such an experiment as model training, and others, at times, as a chat's."""
PARAM_CHARACTERS, TAG_CHARACTERS, DIGEST_CHARACTERS = 6000, 5000, 36
"""MLflow's limits; older servers take less of a tag than newer ones."""


class MlflowRuns:
    """The backend `mlflow`."""

    keeps_open = True
    client: "MlflowClient"

    def __init__(self, uri: str | None) -> None:
        self._uri = resolve_uri(uri)
        self._experiments: dict[str, str] = {}
        self.store = without_password(self._uri)

    def open(self) -> None:
        self.client = connect(self._uri)

    def start(self, run: NewRun) -> str:
        with self.reaching():
            experiment_id = self._experiment_id(run.experiment)
            if run.parent is None and FLOW_RUN_ID in run.tags:
                self._end_attempts_before(run.tags[FLOW_RUN_ID], experiment_id)
            run_id = self._spooled_before(run.tags, experiment_id) or self._create(run, experiment_id)
            self._log_params(run_id, run.params)
            self._experiments[run_id] = experiment_id
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

    def use(self, run: str, dataset: Dataset) -> None:
        """The same data twice is one input."""
        from mlflow import entities

        source, profile = json.dumps({"uri": dataset.source}), json.dumps(dict(dataset.counts))
        described = entities.Dataset(dataset.name, dataset.digest[:DIGEST_CHARACTERS], "local", source, profile=profile)
        role = entities.InputTag("mlflow.data.context", dataset.role)
        with self.reaching():
            self.client.log_inputs(run, [entities.DatasetInput(described, [role])])

    def upload(self, run: str, path: str, folder: str) -> None:
        with self.reaching():
            if Path(path).is_dir():
                self.client.log_artifacts(run, path, f"{folder}/{Path(path).name}".lstrip("/"))
            else:
                self.client.log_artifact(run, path, folder or None)

    def end(self, run: str, status: Status, time_ms: int) -> None:
        with self.reaching():
            self.client.set_terminated(run, status, time_ms)

    def address(self, run: str, file: str) -> str | None:
        if not is_http(self._uri) or run not in self._experiments:
            return None
        server = without_login(self._uri).rstrip("/")
        if file:
            return f"{server}/get-artifact?{urlencode({'path': file, 'run_uuid': run})}"
        return f"{server}/#/experiments/{self._experiments[run]}/runs/{run}"

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
        if not KIND.keys() <= found.tags.keys():
            for tag in KIND.items():
                self.client.set_experiment_tag(found.experiment_id, *tag)
        return str(found.experiment_id)

    def _create_experiment(self, name: str) -> "Experiment":
        from mlflow.exceptions import MlflowException

        try:
            place = None if is_http(self._uri) else f"{artifact_root()}/{name}"
            self.client.create_experiment(name, place, KIND)
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

    def _end_attempts_before(self, flow_run_id: str, experiment_id: str) -> None:
        """A flow run that goes on had an attempt that was killed, and could not say that it ended."""
        for parent in self._running(f"tags.`{FLOW_RUN_ID}` = '{flow_run_id}'", experiment_id):
            for stage in self._running(f"tags.`mlflow.parentRunId` = '{parent}'", experiment_id):
                self.client.set_terminated(stage, "KILLED")
            self.client.set_terminated(parent, "KILLED")

    def _running(self, those: str, experiment_id: str) -> list[str]:
        found = self.client.search_runs([experiment_id], f"{those} and attributes.status = 'RUNNING'")
        return [run.info.run_id for run in found]

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
    own = {"mlflow.source.type": "LOCAL", **{name: tags[key] for key, name in names.items() if key in tags}}
    if FLOW_RUN_URL in tags:
        own["mlflow.note.content"] = f"[The Prefect run]({tags[FLOW_RUN_URL]}) that this belongs to."
    return own
