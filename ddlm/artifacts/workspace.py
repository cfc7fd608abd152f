"""What a stage's build function is given, and what it makes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from ddlm.artifacts.manifest import DamageError, check


@runtime_checkable
class RunLog(Protocol):
    """Where a running stage reports to; `ddlm.tracking` implements it."""

    @property
    def id(self) -> str | None:
        """The tracked run's id, None where nothing is tracked."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record named values at a step; never blocks on a tracking server and never fails because of one."""

    def upload(self, path: Path, folder: str) -> None:
        """Keep a file with the run, under a folder of its own; likewise never fails because of a server."""


class Unlogged:
    """A run that nothing is reported to."""

    id = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        del metrics, step

    def upload(self, path: Path, folder: str) -> None:
        del path, folder


REMEDY = "run the same command with --verify, which rebuilds it"


@dataclass(frozen=True)
class Artifact:
    """A finished artifact. `digest` depends on the bytes of its files alone."""

    stage: str
    key: str
    digest: str
    path: Path

    def require_whole(self) -> None:
        """Hash every byte. Raises: DamageError naming the file and the remedy."""
        try:
            digest = check(self.path, verify=True)
        except DamageError as damage:
            raise DamageError(f"{self.stage} is damaged: {damage}; {REMEDY}") from None
        if digest != self.digest:
            raise DamageError(f"{self.stage} at {self.path} was replaced while this run used it; {REMEDY}")


@dataclass(frozen=True)
class Workspace:
    """What a stage's build function works with.

    inputs: the directories of the artifacts that it reads, by stage.
    output: an empty directory; what is in it when the function returns becomes the artifact.
    scratch: a directory that outlives a kill and the build itself: checkpoints. Collected with the artifact.
    run: takes metrics while the stage runs.
    """

    inputs: Mapping[str, Path]
    output: Path
    scratch: Path
    run: RunLog
