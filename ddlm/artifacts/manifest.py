"""The manifest that makes a folder an artifact, and what writing one safely takes."""

import hashlib
import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
RUN_RECORD = "run.json"


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
    path = folder / MANIFEST
    try:
        return parse_manifest(path.read_bytes(), str(path))
    except OSError as error:
        raise DamageError(f"{path} can't be read ({error})") from None


def parse_manifest(data: bytes, name: str) -> dict[str, Any]:
    """The manifest that lies at `name`. Raises: DamageError, also when it names a file outside its folder."""
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamageError(f"{name} can't be read ({error})") from None
    if not is_manifest(manifest):
        raise DamageError(f"{name} is JSON, but no manifest")
    body = {key: value for key, value in manifest.items() if key != "checksum"}
    if manifest["checksum"] != digest_of(body):
        raise DamageError(f"{name} does not match its own checksum")
    for file in map(PurePosixPath, body["files"]):
        if file.is_absolute() or ".." in file.parts:
            raise DamageError(f"{name} names {file}, which lies outside its folder")
    found: dict[str, Any] = manifest
    return found


def is_manifest(document: object) -> bool:
    """Whether a JSON document has a manifest's shape."""
    if not isinstance(document, dict) or not {"stage", "digest", "checksum"} <= document.keys():
        return False
    files = document.get("files")
    return isinstance(files, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)
        for entry in files.values()
    )


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


def sync(path: Path) -> None:
    """Have the disk hold a file's bytes or a folder's names: a rename alone survives a kill, not a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
