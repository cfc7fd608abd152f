"""The content-addressed store: one directory an artifact, complete or not there at all.

`root/<stage>/<key>/` holds the files, `manifest.json` (written last) and `run.json` (times and hosts, in no digest).
A build happens under a kernel lock in a temporary folder on the same filesystem, is synced and then renamed.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
RUN_RECORD = "run.json"


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


@dataclass(frozen=True)
class Artifact:
    """A finished artifact. `digest` depends on the bytes of its files alone."""

    stage: str
    key: str
    digest: str
    path: Path


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


class ArtifactStore:
    """The store under a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, stage: str, key: str, *, verify: bool = False) -> Artifact | None:
        """The artifact, if it is there and whole: sizes are checked, with `verify` every sha256 too.

        A damaged one is named in a warning and treated as absent.
        """
        path = self.root / stage / key
        if not path.is_dir():
            return None
        try:
            digest = check(path, verify=verify)
        except DamageError as damage:
            logger.warning("artifact %s/%s is damaged: %s; it will be rebuilt", stage, key, damage)
            return None
        return Artifact(stage, key, digest, path)

    def build(
        self, stage: str, key: str, fill: Callable[[Path, Path], None], *, force: bool = False, verify: bool = False
    ) -> tuple[Artifact, bool]:
        """Find the artifact or make it by `fill(output, scratch)`. Returns it and whether this call built it.

        Of two processes that want the same key one builds; the other waits, reuses, and counts as cached.
        """
        asked = time.time()
        with self.lock(f"{stage}-{key}"):
            found = self.find(stage, key, verify=verify)
            if found and not (force and _built_before(found.path, asked)):
                return found, False
            return self._fill(stage, key, fill), True

    def _fill(self, stage: str, key: str, fill: Callable[[Path, Path], None]) -> Artifact:
        output, scratch = self.root / ".tmp" / f"{stage}-{key}", self.scratch(stage, key)
        shutil.rmtree(output, ignore_errors=True)  # ours by the lock: a leftover of a killed build
        output.mkdir(parents=True)
        scratch.mkdir(parents=True, exist_ok=True)
        started = time.time()
        try:
            fill(output, scratch)
            digest = seal(output, stage)
            write_atomically(output / RUN_RECORD, json.dumps(_run_record(started), indent=1).encode())
            path = self.root / stage / key
            _replace(output, path, self.root / ".tmp" / f"old-{stage}-{key}")
        finally:
            shutil.rmtree(output, ignore_errors=True)
        if not any(scratch.iterdir()):
            scratch.rmdir()
        return Artifact(stage, key, digest, path)

    def scratch(self, stage: str, key: str) -> Path:
        return self.root / ".scratch" / f"{stage}-{key}"

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """The kernel's exclusive lock: a killed holder frees it."""
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.lock").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("waiting for %s: another process is building it", name)
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def __iter__(self) -> Iterator[Artifact]:
        """Every whole artifact, oldest first."""
        paths = [path.parent for path in self.root.glob(f"[!.]*/*/{MANIFEST}")]
        for path in sorted(paths, key=lambda path: path.stat().st_mtime):
            found = self.find(path.parent.name, path.name)
            if found:
                yield found

    def collect(self, keep: set[Path], *, keep_days: float | None = None, max_bytes: int | None = None) -> list[Path]:
        """Remove artifacts outside `keep` that are older than `keep_days` or, oldest first, exceed `max_bytes`.

        With neither limit everything outside `keep` goes. Returns what was removed.
        """
        artifacts = list(self)
        total = sum(size_bytes(artifact.path) for artifact in artifacts)
        removed = []
        for artifact in artifacts:
            if artifact.path.resolve() in keep:
                continue
            age_days = (time.time() - artifact.path.stat().st_mtime) / 86400
            old = keep_days is not None and age_days > keep_days
            large = max_bytes is not None and total > max_bytes
            if old or large or (keep_days is None and max_bytes is None):
                total -= size_bytes(artifact.path)
                with self.lock(f"{artifact.stage}-{artifact.key}"):
                    shutil.rmtree(artifact.path)
                    shutil.rmtree(self.scratch(artifact.stage, artifact.key), ignore_errors=True)
                removed.append(artifact.path)
        return removed


class DamageError(Exception):
    """A file of an artifact is missing or is not what the manifest says."""


def seal(folder: Path, stage: str) -> str:
    """Write the manifest of a finished folder and sync everything to disk. Returns the digest of its content."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in (folder / MANIFEST, folder / RUN_RECORD):
            files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            sync(path)
    digest = digest_of({"stage": stage, "files": files})
    body = {"format_version": FORMAT_VERSION, "stage": stage, "files": files, "digest": digest}
    manifest = {**body, "checksum": digest_of(body)}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    return digest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises: DamageError when the manifest is missing, unreadable or not what its checksum says."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise DamageError(f"{folder / MANIFEST} can't be read ({error})") from None
    body = {name: value for name, value in manifest.items() if name != "checksum"}
    if manifest.get("checksum") != digest_of(body):
        raise DamageError(f"{folder / MANIFEST} does not match its own checksum")
    return manifest


def check(folder: Path, *, verify: bool) -> str:
    """The digest of a whole artifact. Raises: DamageError naming the first file that is missing or differs."""
    manifest = read_manifest(folder)
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise DamageError(f"{path} is missing")
        if path.stat().st_size != entry["bytes"]:
            raise DamageError(f"{path} has {path.stat().st_size} bytes, wanted {entry['bytes']}")
        if verify and sha256_file(path) != entry["sha256"]:
            raise DamageError(f"{path} has another sha256 than its manifest")
    digest: str = manifest["digest"]
    return digest


def digest_of(document: object) -> str:
    """sha256 of a JSON document in canonical form."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_atomically(path: Path, data: bytes) -> None:
    """Write, sync, rename: a reader sees the old bytes or the new ones."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def _replace(new: Path, path: Path, old: Path) -> None:
    """Rename `new` to `path`. A damaged or forced predecessor makes way first: a directory can't be overwritten."""
    sync(new)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Have the disk hold a file's bytes or a folder's names: a rename alone survives a kill, not a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _run_record(started: float) -> dict[str, Any]:
    return {"started": started, "seconds": round(time.time() - started, 3), "host": socket.gethostname()}


def _built_before(path: Path, moment: float) -> bool:
    """A forced build still reuses what another process finished while this one waited for the lock."""
    record = json.loads((path / RUN_RECORD).read_bytes()) if (path / RUN_RECORD).exists() else {}
    return float(record.get("started", 0.0) + record.get("seconds", 0.0)) < moment
