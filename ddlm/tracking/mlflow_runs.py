"""Runs in MLflow. No global state of MLflow's is used: stages run in parallel threads, each with its own run id."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ddlm.tracking.backends import NewRun, Row, Status
from ddlm.tracking.mlflow_client import artifact_root, connect, reaching, resolve_uri
from ddlm.tracking.provenance import without_password
from ddlm.tracking.spool import SPOOL_ID

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_PER_BATCH, PARAMS_PER_BATCH = 1000, 100
PARAM_CHARACTERS, TAG_CHARACTERS = 6000, 5000
"""MLflow's limits; older servers take less of a tag than newer ones."""

ItemT = TypeVar("ItemT")


class MlflowRuns:
    """The backend `mlflow`."""

    def __init__(self, uri: str | None, experiment: str) -> None:
        self._uri, self._experiment = resolve_uri(uri), experiment
        self.store = without_password(self._uri)

    def open(self) -> None:
        self._client = connect(self._uri)
        with reaching(self._uri):
            self._experiment_id = find_experiment(self._client, self._uri, self._experiment)

    def start(self, run: NewRun) -> str:
        with reaching(self._uri):
            run_id = self._spooled_before(run.tags) or self._create(run)
            self._log_params(run_id, run.params)
            return run_id

    def metrics(self, run: str, rows: Sequence[Row]) -> None:
        from mlflow.entities import Metric

        with reaching(self._uri):
            for batch in chunks([Metric(row.key, row.value, row.time_ms, row.step) for row in rows], METRICS_PER_BATCH):
                self._client.log_batch(run, metrics=batch, synchronous=True)

    def tag(self, run: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        with reaching(self._uri):
            for batch in chunks([RunTag(*tag) for tag in shortened(tags, TAG_CHARACTERS).items()], PARAMS_PER_BATCH):
                self._client.log_batch(run, tags=batch, synchronous=True)

    def upload(self, run: str, path: str, folder: str) -> None:
        with reaching(self._uri):
            send = self._client.log_artifacts if Path(path).is_dir() else self._client.log_artifact
            send(run, path, folder)

    def end(self, run: str, status: Status, time_ms: int) -> None:
        with reaching(self._uri):
            self._client.set_terminated(run, status, time_ms)

    def _create(self, run: NewRun) -> str:
        parent = {"mlflow.parentRunId": run.parent} if run.parent else {}
        tags = shortened({**run.tags, **_own_tags(run.tags), **parent}, TAG_CHARACTERS)
        return str(self._client.create_run(self._experiment_id, run.time_ms, tags, run.name).info.run_id)

    def _log_params(self, run: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        for batch in chunks([Param(*param) for param in shortened(params, PARAM_CHARACTERS).items()], PARAMS_PER_BATCH):
            self._client.log_batch(run, params=batch, synchronous=True)

    def _spooled_before(self, tags: Mapping[str, str]) -> str | None:
        """The run that an interrupted replay has already opened."""
        if SPOOL_ID not in tags:
            return None
        found = self._client.search_runs(
            [self._experiment_id], f"tags.`{SPOOL_ID}` = '{tags[SPOOL_ID]}'", max_results=1
        )
        return found[0].info.run_id if found else None


def find_experiment(client: "MlflowClient", uri: str, name: str) -> str:
    """The id of MLflow's experiment, made when missing and restored when deleted."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, None if uri.startswith("http") else f"{artifact_root()}/{name}"))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process was quicker
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def chunks(items: Sequence[ItemT], size: int) -> Iterator[list[ItemT]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def shortened(values: Mapping[str, str], characters: int) -> dict[str, str]:
    """Values cut to a length, an ellipsis at the cut."""
    return {key: value if len(value) <= characters else f"{value[: characters - 1]}…" for key, value in values.items()}


def _own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that MLflow's pages show under names of their own."""
    names = {"git.commit": "mlflow.source.git.commit", "command": "mlflow.source.name"}
    return {"mlflow.source.type": "LOCAL", **{name: tags[key] for key, name in names.items() if key in tags}}
