"""Whether the bundle's folder is what its manifest says. Runs before the rest of the program is imported."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

if __package__:  # inside the library, which ships this file
    from ddlm.export.runtime.options import InputError
else:
    from options import InputError  # type: ignore[import-not-found,no-redef]

FORMAT_VERSION = 3
"""3: what stands behind a story, for infilling. 2: the settings of twelve policies, and which ids end a text, which it
can't have and which stand before it."""
MANIFEST = "manifest.json"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
PROGRAM = (".py", ".sh")
"""How the names of files end that run."""


def check_program(folder: Path) -> None:
    """Compare what runs, and the tokenizer, by sha256, and graphs by size: those are hashed when one is loaded.

    Raises: InputError naming the first file that is missing or not what the manifest says.
    """
    manifest = read_manifest(folder)
    for name in manifest["graphs"]:
        check_size(folder / name, manifest["files"][name])
    for name in (TOKENIZER, *(name for name in manifest["files"] if name.endswith(PROGRAM))):
        check_file(folder / name, manifest["files"][name])


def checked(folder: Path, name: str) -> Path:
    """Raises: InputError when the file is missing or not what the manifest says."""
    check_file(folder / name, read_manifest(folder)["files"].get(name, {}))
    return folder / name


def read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        version, checksum = manifest["format_version"], manifest["checksum"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path} is missing or damaged; copy the bundle again") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has format_version {version}, wanted {FORMAT_VERSION}; use its own generate.py")
    if checksum != checksum_of(manifest):
        raise InputError(f"{path} does not match its own checksum; copy the bundle again")
    for name in manifest["files"]:
        if Path(name).name != name or name == "..":
            raise InputError(
                f"{path} names {name}, which lies outside the bundle; copy it again from where it was made"
            )
    return manifest


def checksum_of(manifest: dict[str, Any]) -> str:
    """sha256 over everything else in the manifest, in canonical form."""
    body = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_size(path: Path, entry: dict[str, Any]) -> None:
    if not path.is_file():
        raise InputError(f"{path} is missing; copy the bundle again")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise InputError(f"{path} has {size} bytes, wanted {entry['bytes']}; copy the bundle again")


def check_file(path: Path, entry: dict[str, Any]) -> None:
    check_size(path, entry)
    if sha256_of(path) != entry["sha256"]:
        raise InputError(f"{path} has another sha256 than {MANIFEST} says; copy the bundle again")


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for chunk in iter(lambda: handle.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
