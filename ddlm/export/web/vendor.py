"""onnxruntime for browsers, from npm: one pinned version, checked against its hash, kept under DDLM_HOME."""

import base64
import gzip
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from ddlm.config import UserError, home

PACKAGE = "onnxruntime-web@1.22.0"
"""Of the versions with one module for a page its WebAssembly is the smallest."""
INTEGRITY = "sha512-Ud/+EBo6mhuaQWt/OjaOk0iNWjXqJoeeMFr6xQEERZdIZH2OWpGzuujz7lfuOBjUa6TEE/sc4nb7Da5dNL34fg=="
WASM = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
WEBGPU = ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.jsep.mjs", "ort-wasm-simd-threaded.jsep.wasm")
"""Of each runtime the module that a page loads, the one that this loads from beside itself, and the binary."""
LICENSE = """\
The files of this folder are ONNX Runtime Web, from the npm package {package}, unchanged but for gzip.

Copyright (c) Microsoft Corporation. MIT License

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def place(folder: Path) -> dict[str, int]:
    """Put both runtimes into the folder, their binaries packed with gzip. Returns the unpacked size of each.

    Raises: UserError when they are not at hand and npm can't bring them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = {}
    with tarfile.open(archive()) as package:
        for name in WASM + WEBGPU:
            file = package.extractfile(f"package/dist/{name}")
            assert file
            sizes |= store(folder / name, file.read())
    (folder / "LICENSE").write_text(LICENSE.format(package=PACKAGE), encoding="utf-8")
    return sizes


def store(path: Path, data: bytes) -> dict[str, int]:
    """A module as it is; anything else packed, under its name and `.gz`."""
    if path.suffix == ".mjs":
        path.write_bytes(data)
        return {path.name: len(data)}
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(data, 9, mtime=0))
    return {packed.name: len(data)}


def archive() -> Path:
    """The package's file, fetched if it is not at hand or no longer what it was."""
    path = home() / "vendor" / f"{PACKAGE.replace('@', '-')}.tgz"
    if not path.is_file() or integrity(path) != INTEGRITY:
        path.parent.mkdir(parents=True, exist_ok=True)
        fetch(path)
    return path


def fetch(path: Path) -> None:
    """`npm pack` into a scratch folder beside the path, and there once its hash is right."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"export --web: npm not found, and it brings {PACKAGE} for the page; install Node.js")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".npm-") as scratch:
        retry = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000")
        command = [npm, "pack", PACKAGE, "--loglevel=error", *retry, "--pack-destination", scratch]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        found = [*Path(scratch).glob("*.tgz")]
        if done.returncode or not found:
            raise UserError(f"export --web: npm could not bring {PACKAGE} ({reason(done)}); check the network")
        if integrity(found[0]) != INTEGRITY:
            raise UserError(f"export --web: what npm brought as {PACKAGE} has another hash than it should; try again")
        found[0].replace(path)


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """The first line of npm's that says what is wrong."""
    lines = [line.removeprefix("npm error ").strip() for line in done.stderr.splitlines()]
    told = (line for line in lines if line and line.split()[0] not in ("code", "syscall", "errno", "type", "network"))
    return next(told, f"exit code {done.returncode}")


def integrity(path: Path) -> str:
    """As npm writes it."""
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha512").digest()
    return f"sha512-{base64.b64encode(digest).decode()}"
