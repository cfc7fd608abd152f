"""The store itself: find, build once, collect."""

import fcntl
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ddlm.artifacts.collecting import Entry, surplus
from ddlm.artifacts.lease import Leases
from ddlm.artifacts.manifest import MANIFEST, RUN_RECORD, DamageError, check, seal, size_bytes, sync, write_atomically
from ddlm.artifacts.mirror import Mirror
from ddlm.artifacts.remote import Remote
from ddlm.artifacts.sharing import Sharing
from ddlm.artifacts.workspace import Artifact
from ddlm.config import home

logger = logging.getLogger(__name__)

STORE = "DDLM_STORE"
LIBRARIES = ("torch", "tokenizers", "datasets", "ftfy", "pyarrow", "numpy", "onnx", "onnxruntime", "transformers")


def open_store() -> "ArtifactStore":
    """The store of the home folder or, where the environment variable DDLM_STORE names one, a shared one.

    A folder (a path or a `file:` URL) on a disk that all machines share is used as it is; any other URL is a remote,
    with the home folder's store as its cache.
    """
    url, own = os.environ.get(STORE), home() / "artifacts"
    if not url:
        return ArtifactStore(own)
    if "://" not in url or url.startswith("file://"):
        return ArtifactStore(Path(url.removeprefix("file://").removeprefix("file:")).expanduser().resolve())
    return ArtifactStore(own, Remote(url))


class ArtifactStore:
    """The store under a local folder, which with `remote` is the cache of one that other machines use too."""

    def __init__(self, root: Path, remote: Remote | None = None, leases: Leases | None = None) -> None:
        self.root, self.remote = root, remote
        self._sharing = Sharing(remote, root, leases or Leases(remote)) if remote else None

    def find(self, stage: str, key: str, *, verify: bool = False) -> Artifact | None:
        """The artifact, if it is there and whole: sizes are checked, with `verify` every sha256 too.

        A damaged one is named in a warning and treated as absent. What is not here is fetched and wholly verified;
        what is here costs no word with the remote, unless it was never shared.
        """
        found = self.find_here(stage, key, verify=verify)
        if self._sharing is None:
            return found
        if found is None:
            return self._fetch(stage, key, self._sharing, verify=verify)
        self._sharing.offer(found, ask=verify)
        return found

    def find_here(self, stage: str, key: str, *, verify: bool = False) -> Artifact | None:
        """The same in the local folder alone."""
        path = self.root / stage / key
        if not path.is_dir():
            return None
        try:
            digest = check(path, verify=verify)
        except DamageError as damage:
            remedy = f"it will be taken from {self.remote.url}, or rebuilt" if self.remote else "it will be rebuilt"
            logger.warning("artifact %s/%s is damaged: %s; %s", stage, key, damage, remedy)
            return None
        return Artifact(stage, key, digest, path)

    def build(
        self,
        stage: str,
        key: str,
        fill: Callable[[Path, Path], None],
        *,
        force: bool = False,
        verify: bool = False,
        inputs: Iterable[Artifact] = (),
    ) -> tuple[Artifact, bool]:
        """Find the artifact or make it by `fill(output, scratch)`. Returns it and whether this call built it.

        inputs: what it is made from, for its run record.

        Of two processes that want the same key, on whatever machines, one builds; the other waits, reuses, and counts
        as cached. Forced on several machines, each builds in its turn.
        """
        asked = time.time()
        with self.lock(f"{stage}-{key}"):
            found = self.find_here(stage, key, verify=verify) if force else self.find(stage, key, verify=verify)
            if found and not (force and _built_before(found.path, asked)):
                return found, False
            parents = {artifact.stage: artifact.key for artifact in inputs}
            if self._sharing is None:
                return self._fill(stage, key, fill, parents), True
            with self._sharing.leases.held(f"{stage}-{key}"):
                found = None if force else self._fetch(stage, key, self._sharing, verify=verify)  # built meanwhile
                if found:
                    return found, False
                return self._fill_for_all(stage, key, fill, parents, self._sharing), True

    def _fill_for_all(
        self, stage: str, key: str, fill: Callable[[Path, Path], None], parents: Mapping[str, str], sharing: Sharing
    ) -> Artifact:
        """Build, with the checkpoints kept in the store meanwhile, and share."""
        mirror = Mirror(sharing.remote, f".scratch/{stage}-{key}", self.scratch(stage, key))
        with mirror.kept():
            artifact = self._fill(stage, key, fill, parents)
        if sharing.share(artifact):
            mirror.clear()
        return artifact

    def _fill(self, stage: str, key: str, fill: Callable[[Path, Path], None], parents: Mapping[str, str]) -> Artifact:
        output, scratch = self.root / ".tmp" / f"{stage}-{key}", self.scratch(stage, key)
        shutil.rmtree(output, ignore_errors=True)  # ours by the lock: a leftover of a killed build
        output.mkdir(parents=True)
        scratch.mkdir(parents=True, exist_ok=True)
        started = time.time()
        try:
            fill(output, scratch)
            digest = seal(output, stage)
            write_atomically(output / RUN_RECORD, json.dumps(_run_record(started, parents), indent=1).encode())
            with self.lock(f"place-{stage}-{key}"):
                path = self._place(output, stage, key)
        finally:
            shutil.rmtree(output, ignore_errors=True)
        if not any(scratch.iterdir()):
            scratch.rmdir()
        return Artifact(stage, key, digest, path)

    def _fetch(self, stage: str, key: str, sharing: Sharing, *, verify: bool) -> Artifact | None:
        """Download, verify, rename. One process of this machine at a time; the others then find it here."""
        place = f"{stage}/{key}"
        if not sharing.remote.has(place):
            return None
        with self.lock(f"place-{stage}-{key}"):
            found = self.find_here(stage, key, verify=verify)
            if found:
                return found
            temporary = self.root / ".tmp" / f"fetch-{stage}-{key}"
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                digest = sharing.remote.pull(place, temporary)
                artifact = Artifact(stage, key, digest, self._place(temporary, stage, key))
            except DamageError as damage:
                logger.warning("artifact %s is damaged: %s; it will be rebuilt", place, damage)
                return None
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        sharing.mark(artifact)
        logger.info("%s: fetched from %s", place, sharing.remote.url)
        return artifact

    def _place(self, folder: Path, stage: str, key: str) -> Path:
        path = self.root / stage / key
        _replace(folder, path, self.root / ".tmp" / f"old-{stage}-{key}")
        return path

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
            found = self.find_here(path.parent.name, path.name)
            if found:
                yield found

    def collect(self, keep: set[Path], *, keep_days: float | None = None, max_bytes: int | None = None) -> list[Path]:
        """Remove artifacts outside `keep` that are older than `keep_days` or, oldest first, exceed `max_bytes`.

        With neither limit everything outside `keep` goes. Returns what was removed.
        """
        removed = []
        for entry in surplus(
            [self._entry(artifact, keep) for artifact in self], keep_days=keep_days, max_bytes=max_bytes
        ):
            path = self.root / entry.stage / entry.key
            with self.lock(f"{entry.stage}-{entry.key}"):
                shutil.rmtree(path)
                shutil.rmtree(self.scratch(entry.stage, entry.key), ignore_errors=True)
            removed.append(path)
        return removed

    def _entry(self, artifact: Artifact, keep: set[Path]) -> Entry:
        age_days = (time.time() - artifact.path.stat().st_mtime) / 86400
        is_used = artifact.path.resolve() in keep
        return Entry(artifact.stage, artifact.key, size_bytes(artifact.path), age_days, is_used)


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


def _run_record(started: float, parents: Mapping[str, str]) -> dict[str, Any]:
    return {
        "started": started,
        "seconds": round(time.time() - started, 3),
        "host": socket.gethostname(),
        "inputs": dict(parents),
        "libraries": _versions(),
    }


def _read_record(folder: Path) -> dict[str, Any]:
    """Empty where there is none, or none that can be read: no digest covers it, and nothing is made from it."""
    try:
        record = json.loads((folder / RUN_RECORD).read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


@cache
def _versions() -> dict[str, str]:
    """Of the libraries that decide what bytes a stage writes; no key holds them."""
    installed = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


def parents_of(folder: Path) -> dict[str, str]:
    """The keys of what an artifact was made from, by stage; empty where its record is of an earlier version."""
    found: dict[str, str] = _read_record(folder).get("inputs", {})
    return found


def _built_before(path: Path, moment: float) -> bool:
    """A forced build still reuses what another process finished while this one waited for the lock."""
    record = _read_record(path)
    return float(record.get("started", 0.0) + record.get("seconds", 0.0)) < moment
