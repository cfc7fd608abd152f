"""A full disk, and a server that is not there."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ddlm.training import checkpoint

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from ddlm.cli import main; main()", "run", "configs/tiny.toml", "--until", "train"]

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "small disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "ddlm-chaos", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all the room there is."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as handle, suppress(OSError):
        while True:
            handle.write(bytes(65536))
    assert shutil.disk_usage(disk).free == 0
    return filler


def start(home: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    own = {"DDLM_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "400"}
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=ROOT, env={**os.environ, **own, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_full_disk_leaves_the_checkpoints_before_it_and_training_resumes(small_disk: Path, settings: Any) -> None:
    process = start(small_disk, "--no-prefect", *settings)
    deadline = time.monotonic() + 200
    while not list(small_disk.glob("artifacts/.scratch/train-*/step-00000100")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    filler = fill(small_disk)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 2, said
    (line,) = [line for line in said.splitlines() if "can't be written" in line]
    assert "No space left on device" in line
    assert "Traceback" not in said
    (scratch,) = small_disk.glob("artifacts/.scratch/train-*")
    whole = checkpoint.newest(scratch)
    assert whole
    assert {path.name for path in scratch.iterdir()} <= {
        "best.json",
        *(each.name for each in checkpoint.found(scratch)),
    }
    filler.unlink()
    again = start(small_disk, "--no-prefect", *settings)
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert f"continuing after step {int(whole.name[5:])} of" in said


def test_a_prefect_server_that_is_down_at_submission_is_one_line(tmp_path: Path) -> None:
    process = start(tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    (line,) = said.splitlines()
    assert "no Prefect server answers" in line
