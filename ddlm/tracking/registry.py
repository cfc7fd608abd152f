"""MLflow's model registry: versions of one registered model, their tags and aliases."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ddlm.tracking.backends import Refused
from ddlm.tracking.mlflow_runs import MlflowRuns

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER, CHAMPION = "challenger", "champion"
CHAMPIONS = "ddlm.champions"
"""A tag of the registered model: the numbers of its champions, the present one last."""


@dataclass(frozen=True)
class Version:
    """A model version. source: where its files are. run_id: empty where somebody registered it without a run."""

    number: str
    run_id: str
    tags: Mapping[str, str]
    source: str = ""
    aliases: Sequence[str] = field(default=(), compare=False)
    made: datetime | None = None
    reason: str = ""


class Registry:
    """The versions of `model`. Calls raise Unavailable when MLflow can't be reached."""

    def __init__(self, runs: MlflowRuns, model: str) -> None:
        self._runs, self._client, self.model = runs, runs.client, model

    def find(self, tags: Mapping[str, str]) -> Version | None:
        """The newest version that has all of these tags, and its files."""
        known = [each for each in reversed(self.versions()) if tags.items() <= each.tags.items()]
        return next((each for each in known if self._names(each.source, "")), None)

    def versions(self) -> list[Version]:
        """All of them, the oldest first."""
        with self._runs.reaching():
            found = self._client.search_model_versions(f"name = '{self.model}'")
        aliases = self.aliases()
        return sorted((_version(each, aliases) for each in found), key=lambda version: int(version.number))

    def aliases(self) -> dict[str, str]:
        """The number of the version that each alias points to."""
        try:
            with self._runs.reaching():
                found = self._client.get_registered_model(self.model).aliases
        except Refused:  # no such model yet
            return {}
        return {alias: str(number) for alias, number in found.items()}

    def add(self, run_id: str, folder: Path, tags: Mapping[str, str]) -> Version:
        """Make an MLflow model the next version: one of the models of a run."""
        from mlflow.entities import LoggedModelOutput

        with self._runs.reaching():
            self._require_model()
            experiment = self._client.get_run(run_id).info.experiment_id
            model = self._client.create_logged_model(experiment, self.model, run_id)
            _write_id(folder, model.model_id)
            self._client.log_model_artifacts(model.model_id, str(folder))
            self._client.finalize_logged_model(model.model_id, "READY")
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
            made = self._client.create_model_version(
                self.model, model.artifact_location, run_id, dict(tags), model_id=model.model_id
            )
            versions = json.dumps([{"name": self.model, "version": made.version}])
            self._client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": versions})
        return _version(made, {})

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        with self._runs.reaching():
            for key, value in tags.items():
                self._client.set_model_version_tag(self.model, version.number, key, value)

    def describe(self, version: Version, reason: str) -> None:
        """Why it is what it is: the description that pages show."""
        with self._runs.reaching():
            self._client.update_model_version(self.model, version.number, reason)

    def holder(self, alias: str) -> Version | None:
        """The version that an alias points to."""
        number = self.aliases().get(alias)
        return self.numbered(number) if number else None

    def numbered(self, number: str) -> Version | None:
        """The version of this number."""
        try:
            with self._runs.reaching():
                found = self._client.get_model_version(self.model, number)
        except Refused:
            return None
        return _version(found, self.aliases())

    def point(self, alias: str, version: Version) -> None:
        with self._runs.reaching():
            self._client.set_registered_model_alias(self.model, alias, version.number)

    def crown(self, version: Version) -> None:
        """Make a version champion, and remember which ones were so before."""
        before = self.aliases().get(CHAMPION)
        earlier = [*self.champions(), *([before] if before else [])]
        self.point(CHAMPION, version)
        self._remember([*(number for number in dict.fromkeys(earlier) if number != version.number), version.number])

    def restore(self, version: Version) -> None:
        """Make an earlier champion champion again; those after it are forgotten."""
        earlier = self.champions()
        self.point(CHAMPION, version)
        self._remember(earlier[: earlier.index(version.number) + 1])

    def champions(self) -> list[str]:
        """The numbers of the versions that were champion, as far as they still exist; the newest last."""
        try:
            with self._runs.reaching():
                known = self._client.get_registered_model(self.model).tags.get(CHAMPIONS, "")
        except Refused:
            return []
        existing = {version.number for version in self.versions()}
        return [number for number in known.split() if number in existing]

    def download(self, version: Version, path: str, into: Path) -> Path | None:
        """Fetch a file or folder of a version's model; None when it is gone."""
        return self._download(version.source, path, into)

    def download_scores(self, version: Version, path: str, into: Path) -> Path | None:
        """Fetch a file of a version's evaluation; earlier releases of ddlm kept it beside the model, in its run."""
        beside = version.source.rpartition("/")[0]
        return self._download(version.source, path, into) or self._download(beside, path, into)

    def download_model(self, version: Version, into: Path) -> Path | None:
        """Fetch the model folder that a version was made from; None when it is gone."""
        names = self._names(version.source, "artifacts")
        return self._download(version.source, f"artifacts/{names[0]}", into) if names else None

    def _download(self, source: str, path: str, into: Path) -> Path | None:
        from mlflow.artifacts import download_artifacts

        place = PurePosixPath(path)
        if place.name not in self._names(source, str(place.parent)):
            return None
        with self._runs.reaching():
            uri = self._client.tracking_uri
            found = download_artifacts(artifact_uri=f"{source}/{path}", dst_path=str(into), tracking_uri=uri)
        return Path(found)

    def _names(self, source: str, folder: str) -> list[str]:
        """What is in a folder of a version's files; nothing when they are gone."""
        from mlflow.artifacts import list_artifacts

        uri = f"{source}/{folder}".removesuffix("/").removesuffix("/.")
        try:
            with self._runs.reaching():
                found = list_artifacts(artifact_uri=uri, tracking_uri=self._client.tracking_uri)
        except Refused:  # its run was deleted, or what somebody registered by hand has no files
            return []
        return [PurePosixPath(item.path).name for item in found]

    def _require_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _remember(self, champions: Sequence[str]) -> None:
        with self._runs.reaching():
            self._client.set_registered_model_tag(self.model, CHAMPIONS, " ".join(champions))


def _version(found: "ModelVersion", aliases: Mapping[str, str]) -> Version:
    number = str(found.version)
    return Version(
        number, found.run_id or "", found.tags, found.source,
        sorted(alias for alias, holder in aliases.items() if holder == number),
        datetime.fromtimestamp(found.creation_timestamp / 1000, UTC), found.description or "",
    )  # fmt: skip


def _write_id(folder: Path, model_id: str) -> None:
    """MLflow's pages find the model of a version by the id in its MLmodel."""
    from mlflow.models import Model

    described = Model.load(str(folder))
    described.model_id = model_id
    described.save(str(folder / "MLmodel"))
