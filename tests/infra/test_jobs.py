"""A worker on a box, through a tunnel to a real Prefect server; the box dies and another one ends its run."""

import json
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
NASTY = """Once "upon" it's $(touch hacked) `touch hacked` ; a  b"""
PATIENCE_S = 120
OVERRIDES = {"training.steps": 120, "tracking.backend": "none", "name": "moved"}
PREFECT = [sys.executable, "-m", "prefect"]

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(600)]


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


def prefect(*words):
    done = subprocess.run([*PREFECT, *words], cwd=ROOT, capture_output=True, text=True, check=False)
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
    return set((box.home / "ddlm" / "outputs" / "artifacts").rglob("step-*"))


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
def first(ready, server):
    """A box that reaches the server, as its .env says."""
    with tunnel(ready, server) as url:
        give_secrets(ready, url)
        yield ready


@pytest.fixture
def second(first, new_box):
    """Another one that mounts the same disk, with the libraries and the artifacts on it."""
    box = new_box()
    (box.home / "ddlm").mkdir()
    for shared in (".venv", "outputs"):
        (box.home / "ddlm" / shared).symlink_to(first.home / "ddlm" / shared)
    assert "installed already" in box.ok("bootstrap")
    return box


def test_an_override_arrives_unharmed_and_results_come_back(first):
    said = first.ok(
        "run", "--experiment", "configs/tiny.toml", "--set", f"rendering.prompt={NASTY}", "--set", "training.steps=2",
        "--set", "name=a-run", "--set", "tracking.backend=none", "--set", "evaluation.num_samples=2",
    )  # fmt: skip
    assert "outputs/a-run is in" in said
    (model,) = (first.folder / "here" / "fetched" / "127.0.0.1").glob("*/a-run/model")
    assert json.dumps(NASTY) in (model / "experiment.toml").read_text()
    assert (model / "model.safetensors").is_file()
    assert not [*first.home.rglob("hacked"), *first.folder.glob("hacked"), *ROOT.glob("hacked")]
    assert "a-run" in first.ok("list-runs")
    assert "stages" in first.ok("attach")


def test_a_run_whose_box_dies_is_ended_by_another_box(server, first, second):
    assert "worker is running" in first.ok("worker-start", "--queue", "on-boxes")
    assert HEAD[:12] in first.ok("worker-status")
    assert "a worker is going on there" in first.refused("worker-start")
    before = checkpoints_of(first)
    run = run_deployment(
        "full-pipeline/full-pipeline", timeout=0, work_queue_name="on-boxes",
        parameters={"experiment": "configs/tiny.toml", "overrides": OVERRIDES, "until": "train"},
    ).id  # fmt: skip
    wait_until(lambda: checkpoints_of(first) - before, lambda: log_of(first))
    assert "Worker" in first.ok("worker-logs")
    assert state_of(run).is_running()
    for process in first.processes():
        process.kill()
    assert "no worker is running" in first.refused("worker-status")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Crashed(), force=True)  # a person says so: on that box nothing can any more
    with tunnel(second, server) as url:
        give_secrets(second, url)
        before = checkpoints_of(second)
        second.ok("worker-start", "--queue", "on-boxes")
        prefect("flow-run", "retry", str(run))
        wait_until(lambda: checkpoints_of(second) - before, lambda: log_of(second))
        second.ok("worker-stop")
        assert not second.processes()
        assert state_of(run).is_crashed(), log_of(second)
        second.ok("worker-start", "--queue", "on-boxes")
        prefect("flow-run", "retry", str(run))
        wait_until(lambda: state_of(run).is_final(), lambda: log_of(second))
        assert state_of(run).is_completed(), log_of(second)
        assert stages_of(second) == {
            "corpus": "Cached",
            "tokenizer": "Cached",
            "shards": "Cached",
            "train": "Completed",
        }
        second.ok("fetch", "outputs/moved")
        second.ok("worker-stop")
    assert not second.processes()
    assert "no worker is running" in second.refused("worker-stop")
    assert [*(second.folder / "here").rglob("model.safetensors")]
