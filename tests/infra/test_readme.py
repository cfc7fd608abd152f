"""The README's commands for a server, word for word, in a fresh clone; and what then stands in both pages."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient

ROOT = Path(__file__).parents[2]
LIBRARIES = next(path for path in map(Path, sys.path) if path.name == "site-packages")
PROGRAMS = ("prefect", "mlflow", "ddlm")
SHEBANG = """#!/bin/sh
'''exec' "$(dirname "$0")/python" "$0" "$@"
' '''"""
"""What pip writes where the interpreter's path has a space in it."""
ENDED = "Flow run finished successfully in 'Completed'"
PREFECT, MLFLOW = "http://127.0.0.1:4200", "http://127.0.0.1:5000"
(COMMANDS,) = re.findall(r"^## With a server\n\n((?:    .*\n)+)", (ROOT / "README.md").read_text(), re.MULTILINE)

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(900)]


def is_free(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """A clone with what is edited here, that has the libraries of these tests as if `make` had installed them."""
    if not (is_free(PREFECT) and is_free(MLFLOW)):
        pytest.skip("the README's ports, 4200 and 5000, are taken")
    folder = tmp_path / 'a "new" clöne'
    git = ["git", "-C", ROOT, "-c", f"safe.directory={ROOT}"]
    listed = subprocess.run(
        [*git, "ls-files", "-coz", "--exclude-standard"], capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "a"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    install(folder)
    (folder / "configs" / "quick.toml").write_text(
        (ROOT / "configs" / "tiny.toml").read_text().replace("tiny", "quick")
    )
    yield folder
    run(folder, "make stop")


def install(folder: Path) -> None:
    """Nothing is downloaded: the environment finds the libraries where they are, and the clone's own code."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    (packages,) = (folder / ".venv" / "lib").glob("python*/site-packages")
    (packages / "installed.pth").write_text(f"{folder}\n{LIBRARIES}\n")
    for name in PROGRAMS:
        text = (Path(sys.executable).parent / name).read_text()
        script = folder / ".venv" / "bin" / name
        script.write_text(re.sub(r"\A#!.*", SHEBANG, text))
        script.chmod(0o755)
    stamp = "touch .venv/installed-$(cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)"
    subprocess.run(["sh", "-c", stamp], cwd=folder, check=True)


def run(folder: Path, *lines: str) -> str:
    """What a person behind a proxy sees who gives these lines in the clone."""
    own = {"HOME": str(folder.parent), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    own |= dict.fromkeys(("http_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    command = ["bash", "-euc", "\n".join(lines)]
    done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_readme_s_commands_run_a_pipeline_that_both_pages_show(clone: Path) -> None:
    *lines, last = [line.strip() for line in COMMANDS.splitlines()]
    assert lines[0].startswith("make server")
    assert last == "make stop"
    said = run(clone, *lines)
    assert PREFECT in said
    assert MLFLOW in said
    assert ENDED in said
    (export,) = [line for line in lines if line.startswith("export ")]
    again = run(clone, export, ".venv/bin/prefect deployment run full-pipeline/full-pipeline --watch")
    assert ENDED in again
    require_links(clone, said)
    run(clone, last)
    assert is_free(PREFECT)
    assert is_free(MLFLOW)


def require_links(clone: Path, said: str) -> None:
    """Both runs say what they are; the pages lead to each other, and show the film."""
    runs = httpx.post(f"{PREFECT}/api/flow_runs/filter", json={"sort": "START_TIME_ASC"}).json()
    first, second = [each for each in runs if each["state_type"] == "COMPLETED"]
    commit = subprocess.run(["git", "rev-parse", "--short=7", "HEAD"], cwd=clone, capture_output=True, text=True)
    assert {first["name"], second["name"]} == {f"quick at {commit.stdout.strip()}+"}
    chosen = {"flow_runs": {"id": {"any_": [first["id"]]}}}
    shown = {each["key"]: each for each in httpx.post(f"{PREFECT}/api/artifacts/filter", json=chosen).json()}
    assert shown["quick-training"]["data"] == 100
    assert httpx.get(shown["quick-denoising"]["data"]).content.startswith(b"GIF89a")
    client = MlflowClient(tracking_uri=MLFLOW)
    experiment = client.get_experiment_by_name("quick")
    assert experiment
    (tracked,) = client.search_runs([experiment.experiment_id], f"tags.`prefect.flow_run_id` = '{first['id']}'")
    assert f"({MLFLOW}/#/experiments/{experiment.experiment_id}/runs/{tracked.info.run_id})" in str(
        shown["quick-tracked"]
    )
    address = tracked.data.tags["prefect.flow_run_url"]
    assert address in tracked.data.tags["mlflow.note.content"]
    assert f"URL: {address}\n" in said
    assert address.endswith(first["id"])
    assert tracked.data.metrics["evaluation/bits_per_byte"] > 0
