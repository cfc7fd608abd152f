"""Which models there are, and those that are loaded. A visitor names one of the list: no path of theirs is opened."""

import json
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ddlm.artifacts import open_store
from ddlm.config import UserError, home
from ddlm.experiment.view import USED
from ddlm.generation import DiffusionPipeline, find_folder
from ddlm.model import registered
from ddlm.model.source import find_here
from ddlm.tracking.backends import Unavailable
from ddlm.tracking.mlflow_runs import MlflowRuns
from ddlm.tracking.registry import Registry

logger = logging.getLogger(__name__)

LOADED = 3
"""Models that stay in memory; a text that is being written keeps its own as long as it needs it."""
FRESH_S = 60.0
"""How long what the registry said is taken for true."""
VERSIONS = 5
"""Of each registered model this many are listed at most."""
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Loaded:
    """A model that several visitors share. turn: held for a step, since what the network returns may be overwritten by
    its next run."""

    pipeline: DiffusionPipeline
    turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def facts(self) -> str:
        """What it is, in a line."""
        model, pipeline = self.pipeline.model, self.pipeline
        parameters = sum(weight.numel() for weight in model.parameters())
        size = f"{parameters / 1e6:.1f} million" if parameters >= 1e6 else f"{parameters:,}"
        order = "Writes from left to right, whatever the order. " if pipeline.is_autoregressive else ""
        return f"{order}{size} parameters · {pipeline.seq_len} tokens · {pipeline.device.type}, {pipeline.precision}"


class Shelf:
    """The model that the page was started with, the experiments' last ones, and the registry's.

    first: as the command line takes it: a folder, an experiment, a hub id, `model@alias` or `model/number`.
    Raises: UserError when it means nothing.
    """

    def __init__(self, first: str, precision: Precision = "auto") -> None:
        self.first, self.precision = first, precision
        self._given: Path | None = None
        if Path(first).is_dir() or not (own_folder(first).is_dir() or registered.NAME.fullmatch(first)):
            found = find_folder(first)
            self._given = found.resolve()
            self.first = label_of(Path(os.path.abspath(found))) if find_here(first) else first  # noqa: PTH100 (links keep their names)
        self._loaded: OrderedDict[Path, Loaded] = OrderedDict()
        self._lock = threading.Lock()
        self._registered: list[str] = []
        self._fetched: dict[str, tuple[float, Path]] = {}
        self._asked_at = -FRESH_S

    def names(self) -> list[str]:
        """What may be chosen now, the first model first."""
        found = [folder.parent.name for folder in sorted(home().glob("[!.]*/model")) if folder.is_dir()]
        return list(dict.fromkeys([self.first, *found, *self._registered]))

    def open(self, name: str) -> Loaded:
        """The model as it is now: an experiment may have run again, an alias may have moved.

        Raises: UserError for a name that is not on the list, and for a model that is damaged.
        """
        with self._lock:
            if name not in self.names():
                raise UserError(f"model {name[:80]!r}: not on the list; choose one that is")
            folder = self._folder(name)
            if folder not in self._loaded:
                self._loaded[folder] = Loaded(DiffusionPipeline.from_pretrained(folder, "auto", self.precision))
            self._loaded.move_to_end(folder)
            while len(self._loaded) > LOADED:
                self._loaded.popitem(last=False)
            return self._loaded[folder]

    def _folder(self, name: str) -> Path:
        if self._given and name == self.first:
            return self._given
        if own_folder(name).is_dir():
            return own_folder(name).resolve()
        at, folder = self._fetched.get(name, (-FRESH_S, Path()))
        if time.monotonic() - at >= FRESH_S:
            found = registered.find(name)
            assert found, name
            folder = registered.fetch(found.registry, found.version)
            self._fetched[name] = (time.monotonic(), folder)
        return folder

    def ask_registry(self) -> None:
        """Ask in the background, if there is a registry and it was not asked lately: a page waits for no server."""
        with self._lock:
            if not registered.has_registry() or time.monotonic() - self._asked_at < FRESH_S:
                return
            self._asked_at = time.monotonic()
        threading.Thread(target=self._ask, name="registry", daemon=True).start()

    def _ask(self) -> None:
        try:
            self._registered = self._offered(registered_versions())
        except (Unavailable, UserError) as error:
            logger.warning("no registered models on the page: %s", error)

    def _offered(self, versions: Sequence[tuple[list[str], str]]) -> list[str]:
        """A name for each model that is not on the list already: what was published is often an experiment's."""
        known = digests_here() | {digest for names, digest in versions if self.first in names}
        others: dict[str, str] = {}
        for names, digest in versions:
            if digest not in known:
                others.setdefault(digest, names[0])
        return list(others.values())


def own_folder(name: str) -> Path:
    """Of an experiment's model."""
    return home() / name / "model"


def label_of(folder: Path) -> str:
    """What visitors read: where it lies on this machine is not for them."""
    return folder.parent.name if folder.name == "model" else folder.name


def digests_here() -> set[str]:
    """Of the trainings that the experiments' models come from."""
    store, found = open_store(), set()
    for record in home().glob(f"[!.]*/{USED}"):
        with suppress(ValueError, KeyError, TypeError):  # who reads it to some purpose says what is wrong with it
            stage, key = json.loads(record.read_bytes())["train"].split("/")[-2:]
            artifact = store.find_here(stage, key)
            found |= {artifact.digest} if artifact else set()
    return found


def registered_versions() -> list[tuple[list[str], str]]:
    """Of what was published here the names, `model@alias` before `model/number`, and the training's digest; versions
    with an alias come first, then the newest. Raises: Unavailable; UserError for a wrong address."""
    runs = MlflowRuns(None)
    runs.open()
    with runs.reaching():
        models = [each.name for each in runs.client.search_registered_models() if each.name.startswith("ddlm-")]
    found = []
    for model in models:
        versions = sorted(
            Registry(runs, model).versions(), key=lambda version: (not version.aliases, -int(version.number))
        )
        for version in [each for each in versions if "digest.train" in each.tags][:VERSIONS]:
            names = [*(f"{model}@{alias}" for alias in sorted(version.aliases)), f"{model}/{version.number}"]
            found.append((names, version.tags["digest.train"]))
    return found
