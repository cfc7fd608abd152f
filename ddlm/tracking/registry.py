"""MLflow's model registry: versions of one registered model, their tags and aliases."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ddlm.tracking.backends import Refused
from ddlm.tracking.mlflow_runs import MlflowRuns

MODEL_FOLDER = "model"
"""Where a version's model lies among the files of its run."""


@dataclass(frozen=True)
class Version:
    """A model version. Its files lie in the run."""

    number: str
    run_id: str
    tags: Mapping[str, str]


class Registry:
    """The versions of `model`, whose files lie in runs. Calls raise Unavailable when MLflow can't be reached."""

    def __init__(self, runs: MlflowRuns, model: str) -> None:
        self._runs, self._client, self._model = runs, runs.client, model

    def find(self, tags: Mapping[str, str]) -> Version | None:
        """The newest version that has all of these tags."""
        return next((each for each in reversed(self.versions()) if tags.items() <= each.tags.items()), None)

    def versions(self) -> list[Version]:
        """All of them, the oldest first."""
        with self._runs.reaching():
            found = self._client.search_model_versions(f"name = '{self._model}'")
        versions = [Version(str(each.version), each.run_id, each.tags) for each in found]
        return sorted(versions, key=lambda version: int(version.number))

    def add(self, run_id: str, tags: Mapping[str, str]) -> Version:
        """Make the model that lies in the run's files the next version."""
        from mlflow.exceptions import MlflowException

        with self._runs.reaching():
            try:
                self._client.create_registered_model(self._model)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"{self._client.get_run(run_id).info.artifact_uri}/{MODEL_FOLDER}"
            made = self._client.create_model_version(self._model, source, run_id, dict(tags))
        return Version(str(made.version), run_id, tags)

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        with self._runs.reaching():
            for key, value in tags.items():
                self._client.set_model_version_tag(self._model, version.number, key, value)

    def holder(self, alias: str) -> Version | None:
        """The version that an alias points to."""
        try:
            with self._runs.reaching():
                found = self._client.get_model_version_by_alias(self._model, alias)
        except Refused:  # no such model or alias yet
            return None
        return Version(str(found.version), found.run_id, found.tags)

    def numbered(self, number: str) -> Version | None:
        """The version of this number."""
        try:
            with self._runs.reaching():
                found = self._client.get_model_version(self._model, number)
        except Refused:
            return None
        return Version(str(found.version), found.run_id, found.tags)

    def point(self, alias: str, version: Version) -> None:
        with self._runs.reaching():
            self._client.set_registered_model_alias(self._model, alias, version.number)

    def download(self, version: Version, folder: str, name: str, into: Path) -> Path | None:
        """Fetch one file of a version's run; None when it is gone."""
        path = f"{folder}/{name}"
        with self._runs.reaching():
            if path not in {item.path for item in self._client.list_artifacts(version.run_id, folder)}:
                return None
            return Path(self._client.download_artifacts(version.run_id, path, str(into)))

    def download_model(self, version: Version, into: Path) -> Path | None:
        """Fetch the model folder that a version was made from; None when it is gone."""
        with self._runs.reaching():
            found = [item.path for item in self._client.list_artifacts(version.run_id, f"{MODEL_FOLDER}/artifacts")]
            if not found:
                return None
            return Path(self._client.download_artifacts(version.run_id, found[0], str(into)))
