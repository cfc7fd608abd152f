"""A store that machines share without sharing a disk: an object store behind an fsspec URL such as s3://bucket/prefix.

`<stage>/<key>/manifest.json`, written last, names files that lie in `<stage>/<key>/<start of the digest>/`. So two
machines that write different bytes under one key never mix them, and a reader meets the old artifact or the new one.
"""

import errno
import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddlm.artifacts.manifest import MANIFEST, RUN_RECORD, DamageError, check, parse_manifest
from ddlm.config import Unreachable, UserError, installing

QUICK_TO_GIVE_UP: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 2}}}
}
"""botocore's own defaults keep a caller waiting for minutes when its server is down."""
OURS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""Faults of the disk here, which are not the store's."""


class StoreUnavailable(Unreachable):
    """The store can't be reached or doesn't do what it is asked. One line; the same call may succeed later."""


class Remote:
    """Folders with a manifest, in an object store. A place is a path below its root, like `train/<key>`.

    Every call may raise StoreUnavailable, or UserError when the store refuses us.
    Raises: UserError when the URL's package is missing or its kind is unknown.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, self._root = _open(self.url)
        self._faults = _faults()

    def push(self, folder: Path, place: str) -> None:
        """Upload a sealed folder: its files, then its manifest."""
        data = (folder / MANIFEST).read_bytes()
        manifest = parse_manifest(data, str(folder / MANIFEST))
        base = self._path(place, manifest["digest"][:16])
        names = [*manifest["files"], *([RUN_RECORD] if (folder / RUN_RECORD).exists() else [])]
        with self._reaching():
            if names:
                self._fs.put([str(folder / name) for name in names], [f"{base}/{name}" for name in names])
            self._fs.pipe_file(self._path(place, MANIFEST), data)

    def pull(self, place: str, folder: Path) -> str:
        """Download into a new folder and verify every byte. Returns the digest.

        Raises: DamageError naming the first object that is missing or not what the manifest says.
        """
        data = self.read(f"{place}/{MANIFEST}")
        if data is None:
            raise DamageError(f"{self.url}/{place}/{MANIFEST} is missing")
        manifest = parse_manifest(data, f"{self.url}/{place}/{MANIFEST}")
        base = f"{place}/{manifest['digest'][:16]}"
        folder.mkdir(parents=True)
        for name in manifest["files"]:
            if not self._download(f"{base}/{name}", folder / name):
                raise DamageError(f"{self.url}/{base}/{name} is missing")
        self._download(f"{base}/{RUN_RECORD}", folder / RUN_RECORD)
        (folder / MANIFEST).write_bytes(data)
        try:
            return check(folder, verify=True)
        except DamageError as damage:
            raise DamageError(str(damage).replace(str(folder), f"{self.url}/{base}", 1)) from None

    def _download(self, name: str, path: Path) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._reaching():
            try:
                self._fs.get_file(self._path(name), str(path))
            except FileNotFoundError:
                return False
        return True

    def has(self, place: str) -> bool:
        """Whether a whole folder lies there, as far as its manifest says."""
        return self.read(f"{place}/{MANIFEST}") is not None

    def read(self, name: str) -> bytes | None:
        """A small object; None where there is none."""
        with self._reaching():
            try:
                data: bytes = self._fs.cat_file(self._path(name))
            except FileNotFoundError:
                return None
        return data

    def write(self, name: str, data: bytes) -> None:
        with self._reaching():
            self._fs.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one; whether that was so. Old servers ignore the condition and overwrite."""
        with self._reaching():
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
        return True

    def sizes(self, place: str = "") -> dict[str, int]:
        """Every object below a place, by its path from there, with its bytes."""
        base = self._path(place) if place else self._root
        with self._reaching():
            found: dict[str, dict[str, Any]] = self._fs.find(base, detail=True)
        return {path.removeprefix(f"{base}/"): int(entry["size"]) for path, entry in found.items()}

    def artifacts(self) -> dict[tuple[str, str], int]:
        """Every artifact by stage and key, with its bytes."""
        objects = self.sizes()
        found: dict[tuple[str, str], int] = {}
        for stage, key, *rest in (name.split("/") for name in objects if name.count("/") >= 2 and name[0] != "."):
            if f"{stage}/{key}/{MANIFEST}" in objects:
                found[stage, key] = found.get((stage, key), 0) + objects["/".join((stage, key, *rest))]
        return found

    def abandoned(self) -> list[str]:
        """Where checkpoints lie of builds that did not end, or not yet."""
        return sorted({f".scratch/{name.partition('/')[0]}" for name in self.sizes(".scratch")})

    def age_days(self, place: str) -> float:
        """Since the newest of a place's objects was written."""
        with self._reaching():
            written = [self._fs.modified(path) for path in self._fs.find(self._path(place))]
        return (time.time() - max(moment.timestamp() for moment in written)) / 86400 if written else 0.0

    def remove(self, name: str) -> None:
        """Remove one object, if it is there."""
        with self._reaching():
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def remove_all(self, place: str) -> None:
        """Remove every object below a place; manifests first, so that nothing looks whole that is not."""
        for name in sorted(self.sizes(place), key=lambda name: not name.endswith(MANIFEST)):
            self.remove(f"{place}/{name}")

    def _path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turns what fsspec and the stores behind it raise into one line."""
        try:
            yield
        except PermissionError as error:
            raise UserError(f"{self.url}: refused ({_line(error)}); give credentials that may read and write") from None
        except FileNotFoundError as error:
            raise UserError(f"{self.url}: not there ({_line(error)}); create the bucket, or mend DDLM_STORE") from None
        except self._faults as error:
            if isinstance(error, OSError) and error.errno in OURS:
                raise
            raise StoreUnavailable(f"{self.url} can't be reached: {_line(error)}") from None


def _open(url: str) -> tuple[Any, str]:
    """Imported here: fsspec's stores take a second. No listing is kept, since other machines write too."""
    import fsspec

    protocol = url.partition("://")[0]
    options = QUICK_TO_GIVE_UP.get(protocol, {})
    try:
        store, root = fsspec.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **options)
    except ImportError:
        raise UserError(f"DDLM_STORE {url}: its package is missing; run {installing(protocol)}") from None
    except ValueError as error:
        raise UserError(f"DDLM_STORE {url}: {_line(error)}; give s3://bucket/prefix or a folder") from None
    return store, root.rstrip("/")


def _faults() -> tuple[type[Exception], ...]:
    """What a lost connection raises: S3's client has errors of its own."""
    if importlib.util.find_spec("botocore") is None:
        return (OSError,)
    from botocore.exceptions import BotoCoreError

    return (OSError, BotoCoreError)


def _line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]
