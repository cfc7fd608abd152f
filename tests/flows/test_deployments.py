"""prefect.yaml on a real server with a real worker."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from prefect import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun

ROOT = Path(__file__).parents[2]
PREFECT = [sys.executable, "-m", "prefect"]

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]


def prefect(*arguments: str) -> str:
    """A Prefect command in the project's folder; what it wrote."""
    done = subprocess.run([*PREFECT, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def runs_of(flow: str) -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])))


@pytest.fixture(scope="module")
def deployed(server: str) -> Iterator[None]:
    """What `make deploy` and `make worker` do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", server)
        patch.setenv("PWD", str(ROOT))
        prefect("work-pool", "create", "cpu", "--type", "process", "--overwrite")
        prefect("work-queue", "create", "training", "--pool", "cpu", "--priority", "1")
        prefect("work-queue", "create", "scheduled", "--pool", "cpu", "--priority", "5")
        prefect("--no-prompt", "deploy", "--all")
        yield


@pytest.fixture
def worker(deployed: None, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PREFECT_API_URL", server)
    command = [*PREFECT, "worker", "start", "--pool", "cpu", "--work-queue", "training", "--work-queue", "scheduled"]
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=log, stderr=log, start_new_session=True)
        yield
        process.send_signal(signal.SIGINT)
        process.wait(60)


def test_the_bare_name_runs_the_whole_pipeline_on_a_worker(worker: None, tmp_path: Path) -> None:
    shown = prefect("deployment", "run", "full-pipeline", "--param", "experiment=configs/tiny.toml", "--watch")
    assert "taken as full-pipeline/full-pipeline" in shown
    (run,) = runs_of("full-pipeline")
    assert run.state
    assert run.state.is_completed(), (tmp_path / "worker.log").read_text()
    assert (tmp_path / "outputs" / "tiny" / "model" / "model.safetensors").exists()


def test_retraining_is_scheduled_weekly(deployed: None) -> None:
    deadline = time.monotonic() + 120
    while not runs_of("retrain"):
        assert time.monotonic() < deadline
        time.sleep(1)
    times = sorted(run.expected_start_time for run in runs_of("retrain") if run.expected_start_time)
    assert {(later - earlier).days for earlier, later in pairwise(times)} == {7}
    assert {(time.isoweekday(), time.hour) for time in times} == {(7, 3)}
