"""A worker on a box, through a tunnel to a real Prefect server; the box dies and another one ends its run."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect import get_client
from prefect.deployments import run_deployment
from prefect.states import Crashed

from flows.server import embedded

ROOT = Path(__file__).parents[2]
HEAD = subprocess.run(
    ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
).stdout.strip()
PATIENCE_S = 150
PREFECT = [sys.executable, "-m", "prefect"]

pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of a server of ours with the pool, its queues and the deployments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDLM_HOME", str(tmp_path_factory.mktemp("server")))
        with embedded() as url:
            patch.setenv("PREFECT_API_URL", url)
            patch.delenv("PWD", raising=False)  # so that the pull step keeps asking each worker for its own
            prefect("work-pool", "create", "cpu", "--type", "process", "--overwrite")
            prefect("work-queue", "create", "on-boxes", "--pool", "cpu")
            prefect("--no-prompt", "deploy", "--name", "full-pipeline")
            yield url


def prefect(*words, url=None):
    environment = {**os.environ, **({"PREFECT_API_URL": url} if url else {})}
    done = subprocess.run([*PREFECT, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def tunnel(box, url):
    """The server's URL on the box."""
    here = int(url.split(":")[2].split("/")[0])
    there = box.free_port()
    with (box.folder / "tunnel.log").open("wb") as log:
        command = box.command("tunnel", "--port", f"{there}:{here}", "--port", f"{box.free_port()}:{box.free_port()}")
        process = subprocess.Popen(command, cwd=ROOT, env=box.environment(), stdout=log, stderr=log)
        try:
            wait_until(lambda: box.answers(there))
            yield url.replace(f":{here}/", f":{there}/")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def wait_until(is_so, says=lambda: ""):
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, says()
        time.sleep(0.5)


def log_of(box):
    path = box.home / "ddlm" / "worker.log"
    return path.read_text() if path.exists() else ""


def checkpoints_of(box):
    return list((box.home / "ddlm" / "outputs" / "artifacts").rglob("step-*"))


def give_secrets(box, url):
    (box.folder / "env").write_text(f"PREFECT_API_URL={url}\nOMP_NUM_THREADS=1\n")
    box.ok("sync-env", str(box.folder / "env"))


def state_of(run):
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run).state


def stages_of(box):
    """How each stage ended there, by what the worker's log says."""
    return dict(re.findall(r"Task run '(\w+)-\w+' - Finished in state (\w+)", log_of(box)))


@pytest.fixture(scope="module")
def boxes(new_box):
    """Two that mount one disk, with the libraries and the artifacts on it."""
    first, second = new_box(), new_box()
    first.ok("bootstrap", "--python", sys._base_executable)
    (second.home / "ddlm").mkdir()
    for shared in (".venv", "outputs"):
        (second.home / "ddlm" / shared).symlink_to(first.home / "ddlm" / shared)
    second.ok("bootstrap")
    return first, second


def test_a_run_whose_box_dies_is_ended_by_another_box(server, boxes):
    first, second = boxes
    overrides = {"training.steps": 100, "tracking.backend": "none", "name": "moved"}
    with tunnel(first, server) as url:
        give_secrets(first, url)
        assert "worker is running" in first.ok("worker-start", "--queue", "on-boxes")
        assert HEAD[:12] in first.ok("worker-status")
        assert "a worker is going on there" in first.refused("worker-start")
        wait_until(lambda: "Worker" in first.ok("worker-logs"))
        run = run_deployment(
            "full-pipeline/full-pipeline", timeout=0, work_queue_name="on-boxes",
            parameters={"experiment": "configs/tiny.toml", "overrides": overrides, "until": "train"},
        ).id  # fmt: skip
        wait_until(lambda: checkpoints_of(first), lambda: log_of(first))
        assert state_of(run).is_running()
        for process in first.processes():
            process.kill()
    assert "no worker is running" in first.refused("worker-status")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Crashed(), force=True)
    with tunnel(second, server) as url:
        give_secrets(second, url)
        second.ok("worker-start", "--queue", "on-boxes")
        prefect("flow-run", "retry", str(run))
        wait_until(lambda: state_of(run).is_final(), lambda: log_of(second))
        assert state_of(run).is_completed(), log_of(second)
        assert stages_of(second) == {
            **dict.fromkeys(("corpus", "tokenizer", "shards"), "Cached"),
            "train": "Completed",
        }, log_of(second)
        second.ok("fetch", "outputs/moved")
        second.ok("worker-stop")
    assert not second.processes()
    assert "no worker is running" in second.refused("worker-stop")
    assert [*(second.folder / "here").rglob("model.safetensors")]
