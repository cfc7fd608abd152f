"""A bundle on a Jetson: put there, looked after, measured.

On the device: ~/ddlm/bundles/CHECKSUM, one folder a bundle, and ~/ddlm/bundle, a link to one of them; its .venv is
shared by bundles that ask for the same packages.
"""

import json
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from boxes import name
from fabric import Connection
from invoke import Exit
from remote import ask, do, feed

from ddlm.config import home
from ddlm.export import device
from ddlm.export.runtime import integrity
from ddlm.export.runtime.options import InputError
from ddlm.tracking import Tracker, TrackingConfig

LEAST_MEMORY_KIB = 2 << 20
"""What building an engine and writing with it takes, about."""
LEAST_DISK_KIB = 4 << 20

HAS = '[ -d "$HOME/ddlm/bundles/$1" ]'
PLACE = """mkdir -p "$HOME/ddlm/bundles" && cd "$HOME/ddlm/bundles" || exit
{ mkdir ".$1.$$" && tar -xzf - -C ".$1.$$" && mv -T ".$1.$$" "$1"; } || { rm -rf ".$1.$$"; exit 1; }"""
INSTALL = """cd "$HOME/ddlm/bundles/$1" || exit
python=${2:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    { echo "no Python 3.10 or newer as $python; install python3 and python3-venv" >&2; exit 1; }
release=$("$python" -c 'import sys; print("jp62" if sys.version_info < (3, 11) else "jp72")')
key=$("$python" -VV | cat - "requirements-$release.txt" | cksum | cut -d' ' -f1)
venv=$HOME/ddlm/bundle-venv-$key
if [ ! -e "$venv/installed" ]; then
    rm -rf "$venv"
    "$python" -m venv --system-site-packages "$venv" >&2 &&
        "$venv/bin/python" -m pip install -q --disable-pip-version-check -r "requirements-$release.txt" >&2 || exit 1
    touch "$venv/installed"
fi
ln -sfn "$venv" .venv
cd "$HOME/ddlm" && ln -sfn "bundles/$1" ".bundle.$$" && mv -fT ".bundle.$$" bundle"""
TRY = 'cd -P "$HOME/ddlm/bundle" && exec .venv/bin/python generate.py --steps 1 --json "$@"'
BENCH = """cd -P "$HOME/ddlm/bundle" 2>/dev/null ||
    { echo 'no bundle; deploy-bundle --bundle FOLDER first' >&2; exit 2; }
exec sh bench.sh "$@\""""
STATE = """cd -P "$HOME/ddlm/bundle" 2>/dev/null && echo has_bundle=yes
.venv/bin/python -c 'import numpy, onnxruntime, tokenizers' 2>/dev/null && echo has_packages=yes
.venv/bin/python -c 'import tensorrt; print("python_tensorrt=" + tensorrt.__version__)' 2>/dev/null
exit 0"""


def deploy(box: Connection, folder: Path, python: str) -> None:
    """Put a bundle there, make it the current one, and write with it once. One that is there is not sent again."""
    manifest = whole(folder)
    key = manifest["checksum"][:16]
    if ask(box, HAS, key) is None:
        send(box, folder, [integrity.MANIFEST, *manifest["files"]], key)
    do(box, INSTALL, key, python)
    made = json.loads(do(box, TRY))
    print(f"{name(box)}: bundle {key} is in ~/ddlm/bundle and writes ({made['precision']}, {made['unmasking']})")


def whole(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle. Raises: Exit for a folder that is none, or a damaged one."""
    if not (folder / integrity.MANIFEST).is_file():
        raise Exit(f"--bundle {folder}: no bundle; make one with ddlm export MODEL -o FOLDER", 2)
    try:
        manifest = integrity.read_manifest(folder)
        for file, entry in manifest["files"].items():
            integrity.check_file(folder / file, entry)
    except InputError as error:
        raise Exit(f"--bundle: {error}", 2) from None
    return manifest


def send(box: Connection, folder: Path, files: list[str], key: str) -> None:
    """What its manifest lists, and nothing else that may lie there."""
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
            for file in files:
                archive.add(folder / file, file)
        packed.seek(0)
        feed(box, packed, PLACE, key)


def facts_of(box: Connection) -> dict[str, str]:
    """What the device says of itself, and what is installed; names without a value are left out."""
    said = do(box, (Path(str(device.__file__)).with_name("facts.sh")).read_text(encoding="utf-8"))
    lines = [*said.splitlines(), *(ask(box, STATE) or "").splitlines()]
    return {key: value for key, _, value in (line.partition("=") for line in lines) if value}


def complaints(facts: Mapping[str, str]) -> Iterator[str]:
    """A line for each thing that is missing or will spoil a measurement."""
    if "l4t" not in facts:
        yield "jetson: /etc/nv_tegra_release is missing; this is no Jetson, and only --backend ort runs here"
    elif "trtexec" not in facts:
        yield "tensorrt: no trtexec; sudo apt install nvidia-jetpack"
    if "has_bundle" not in facts:
        yield "bundle: none; deploy-bundle --bundle FOLDER"
    elif "has_packages" not in facts:
        yield "packages: the bundle's are not all there; deploy-bundle again"
    elif "l4t" in facts and "python_tensorrt" not in facts:
        yield "tensorrt: Python finds none; sudo apt install python3-libnvinfer, then deploy-bundle again"
    if facts.get("gpu_hz") != facts.get("gpu_max_hz"):
        yield f"clocks: the GPU runs at {facts.get('gpu_hz')} of {facts.get('gpu_max_hz')} Hz; sudo jetson_clocks"
    for fact, least in {"memory_available_kib": LEAST_MEMORY_KIB, "disk_free_kib": LEAST_DISK_KIB}.items():
        if int(facts.get(fact, least)) < least:
            yield f"{fact.partition('_')[0]}: {int(facts[fact]) >> 10} MiB free; building an engine takes {least >> 10}"


def bench(box: Connection, words: list[str], experiment: str) -> None:
    """Measure there, keep the record here, and put its figures into MLflow."""
    made = json.loads(do(box, BENCH, *words))
    file = home() / "fetched" / box.original_host / f"bench-{time.strftime('%Y-%m-%d_%H-%M-%S')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    remember(made, file, experiment)
    print(f"{name(box)}: {made['tokens_per_s']:.0f} tokens/s, {made['text_ms']['p50']:.0f} ms a text (median); {file}")


def remember(made: dict[str, Any], file: Path, experiment: str) -> None:
    """A run with the figures as metrics, and what they hang on as parameters."""
    hangs_on = ("graph", "precision", "unmasking", "num_sampling_steps", "is_captured")
    params = {"machine": made["machine"], "versions": made["versions"], **{key: made[key] for key in hangs_on}}
    tracker = Tracker(TrackingConfig(), experiment=experiment, params=params, tags={"ddlm.kind": "device bench"})
    with tracker.stage("bench") as run:
        run.log(figures(made), step=0)
        run.upload(file, "")
    tracker.finish(figures(made))


def figures(made: dict[str, Any]) -> dict[str, float]:
    flat = {**made, **{f"text_ms_{share}": value for share, value in made["text_ms"].items()}}
    kept = {key: value for key, value in flat.items() if type(value) in (int, float)}
    return {f"device/{key}": float(value) for key, value in kept.items()}
