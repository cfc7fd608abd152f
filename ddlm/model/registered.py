"""Models of MLflow's registry as folders: found by name, fetched once, checked, and kept in the store."""

import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ddlm.artifacts import MANIFEST, RUN_RECORD, DamageError, check, open_store
from ddlm.config import UserError, home
from ddlm.tracking.mlflow_runs import MlflowRuns
from ddlm.tracking.registry import CHAMPION, Registry, Version

logger = logging.getLogger(__name__)

SCHEME = "models:/"
NAME = re.compile(rf"(?:{SCHEME})?(?P<model>[\w.-]+)(?:@(?P<alias>[\w-]+)|/(?P<number>\d+))")
"""`model@alias` or `model/number`, as MLflow writes it or without its scheme."""


@dataclass(frozen=True)
class Registered:
    """A version of a registered model, where it can be reached."""

    registry: Registry
    model: str
    version: Version

    @property
    def name(self) -> str:
        return f"{self.model}/{self.version.number}"

    @property
    def experiment(self) -> str:
        return self.model.removeprefix("ddlm-")


def find(name: str, uri: str | None = None) -> Registered | None:
    """What `model@alias` or `model/number` names; None for a name of another form, and for an existing folder.

    Raises: UserError when there is no registry, or no such version in it. Unavailable without MLflow.
    """
    match = NAME.fullmatch(name)
    if not match or Path(name).is_dir():
        if name.startswith(SCHEME):
            raise UserError(f"model {name}: wanted {SCHEME}NAME@ALIAS or {SCHEME}NAME/NUMBER")
        return None
    if not (uri or has_registry()):
        raise UserError(
            f"model {name}: nothing was registered in {home()}; a whole ddlm run does, or set MLFLOW_TRACKING_URI"
        )
    runs = MlflowRuns(uri)
    runs.open()
    registry = Registry(runs, match["model"])
    version = registry.holder(match["alias"]) if match["alias"] else registry.numbered(match["number"])
    if version is None:
        known = [f"{match['model']}/{each.number}" for each in registry.versions()]
        raise UserError(
            f"model {name}: no such version in {runs.store}; it has {', '.join(known) or 'none of this model'}"
        )
    return Registered(registry, match["model"], version)


def has_registry() -> bool:
    """Without one, asking would make an empty database."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (home() / "mlflow.db").exists()


def fetch(registry: Registry, version: Version) -> Path:
    """The model folder of a version: the same path for the same weights, downloaded when it is not there yet.

    Raises: UserError when its files are gone, are not those published, or were not published by ddlm.
    """
    digest = version.tags.get("digest.train")
    if digest is None:
        raise UserError(
            f"{registry.model} version {version.number}: has no tag digest.train, so its files can't be checked; "
            f"ddlm did not publish it: point the alias to one that it did, ddlm registry list {registry.model}"
        )

    def fill(output: Path, scratch: Path) -> None:
        logger.info("fetching %s version %s from the registry", registry.model, version.number)
        folder = registry.download_model(version, scratch)
        if folder is None or not is_whole(folder, digest):
            raise UserError(
                f"{registry.model} version {version.number}: its files are gone or are not those published; make "
                f"another version champion: ddlm registry promote {registry.model} VERSION"
            )
        for path in folder.iterdir():
            if path.name not in (MANIFEST, RUN_RECORD):
                shutil.copy2(path, output / path.name)
        shutil.rmtree(scratch / Path(folder).relative_to(scratch).parts[0])

    return open_store().build("registered", digest[:24], fill, verify=True)[0].path


def is_whole(folder: Path, digest: str) -> bool:
    try:
        return check(folder, verify=True) == digest
    except DamageError:
        return False


def weights_of_champion(experiment: str, uri: str | None) -> Path | None:
    """The champion's model folder; None when the experiment has no champion yet. Raises: as `fetch` does."""
    runs = MlflowRuns(uri)
    runs.open()
    registry = Registry(runs, f"ddlm-{experiment}")
    version = registry.holder(CHAMPION)
    return fetch(registry, version) if version else None
