"""What people do to a registered model by hand: look at its versions, choose the champion, take a choice back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddlm.config import UserError
from ddlm.tracking.mlflow_runs import MlflowRuns
from ddlm.tracking.registry import CHAMPION, Registry, Version


@dataclass(frozen=True)
class Model:
    """A registered model that is there. Raises, on opening: UserError when it is not. Unavailable without MLflow."""

    registry: Registry

    @classmethod
    def open(cls, name: str, uri: str | None = None) -> "Model":
        """name: `ddlm-quick`, or the experiment's, `quick`."""
        runs = MlflowRuns(uri)
        runs.open()
        known = names(runs)
        for candidate in (name, f"ddlm-{name}"):
            if candidate in known:
                return cls(Registry(runs, candidate))
        raise UserError(f"registry: no model {name} in {runs.store}; it has {', '.join(known) or 'none yet'}")

    def rows(self) -> list[dict[str, Any]]:
        """One for each version, the newest first."""
        return [row(version) for version in reversed(self.registry.versions())]

    def promote(self, number: str) -> Version:
        """Make a version champion by hand."""
        version = self._version(number)
        if CHAMPION not in version.aliases:
            self.registry.crown(version)
            self.registry.describe(version, f"{version.reason}; made champion by hand".removeprefix("; "))
        return version

    def rollback(self) -> Version:
        """Make the champion before this one champion again. Raises: UserError when none is known."""
        now = self.registry.holder(CHAMPION)
        earlier = [number for number in self.registry.champions() if now is None or number != now.number]
        if not earlier:
            raise UserError(
                f"registry: no earlier champion of {self.registry.model} is known; "
                f"choose one: ddlm registry promote {self.registry.model} VERSION"
            )
        version = self._version(earlier[-1])
        self.registry.restore(version)
        return version

    def _version(self, number: str) -> Version:
        known = {version.number: version for version in self.registry.versions()}
        if number not in known:
            raise UserError(
                f"registry: {self.registry.model} has no version {number}; it has {', '.join(known) or 'none'}"
            )
        return known[number]


def list_versions(name: str | None, uri: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """The versions of one model, or of all, by model."""
    if name:
        model = Model.open(name, uri)
        return {model.registry.model: model.rows()}
    runs = MlflowRuns(uri)
    runs.open()
    return {each: Model(Registry(runs, each)).rows() for each in names(runs)}


def names(runs: MlflowRuns) -> list[str]:
    with runs.reaching():
        return sorted(each.name for each in runs.client.search_registered_models())


def row(version: Version) -> dict[str, Any]:
    tags: Mapping[str, str] = version.tags
    return {
        "version": version.number,
        "aliases": list(version.aliases),
        "bits_per_byte": float(tags["bits_per_byte"]) if "bits_per_byte" in tags else None,
        "bits_per_byte_interval": json.loads(tags.get("bits_per_byte_interval", "null")),
        "data_digest": tags.get("data_digest"),
        "made": version.made.isoformat(timespec="seconds") if version.made else None,
        "reason": version.reason,
    }
