"""`make server`, `make status` and `make stop`: infra/local.py on ports and a home of the tests' own."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ("prefect", "mlflow", "worker")

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(900)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def local(tmp_path):
    """Runs infra/local.py; what it said and its exit code."""
    own = {"DDLM_HOME": str(tmp_path), "PREFECT_PORT": free_port(), "MLFLOW_PORT": free_port()}

    def run(action, **environment):
        command = [sys.executable, "infra/local.py", action]
        environment = {**os.environ, **own, **environment}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    yield run
    run("stop")


def pids(home):
    return {name: json.loads((home / "control" / f"{name}.json").read_text())["pid"] for name in SERVICES}


def running(said):
    return {line.split()[0] for line in said.splitlines() if re.match("(prefect|mlflow|worker) .*(http|pool)", line)}


def test_it_starts_once_mends_what_was_killed_and_stops_all_that_it_started(local, tmp_path):
    code, said = local("start")
    assert code == 0, said
    assert running(said) == set(SERVICES)
    before = pids(tmp_path)
    assert local("start")[0] == 0
    assert pids(tmp_path) == before

    orphans = psutil.Process(before["mlflow"]).children(recursive=True)
    assert orphans
    psutil.Process(before["mlflow"]).kill()  # its child goes on and holds the port
    psutil.Process(before["worker"]).kill()
    psutil.wait_procs([psutil.Process(before["mlflow"])] if psutil.pid_exists(before["mlflow"]) else [], 10)
    said = local("status")[1]
    assert running(said) == {"prefect"}
    assert "mlflow   not running, though what it left behind answers" in said
    code, said = local("start")
    assert code == 0, said
    assert running(said) == set(SERVICES)
    after = pids(tmp_path)
    assert after["prefect"] == before["prefect"]
    assert not any(process.is_running() for process in orphans)

    suspended = psutil.Process(after["mlflow"])
    suspended.suspend()
    assert f"mlflow   process {suspended.pid} is suspended; kill -CONT {suspended.pid}" in local("status")[1]
    suspended.resume()

    started = [each for pid in after.values() for each in (psutil.Process(pid), *psutil.Process(pid).children())]
    assert local("stop")[0] == 0
    assert not any(process.is_running() for process in started)
    code, said = local("stop")
    assert (code, running(said)) == (0, set())


def test_a_port_that_is_taken_is_one_line_and_starts_nothing(local, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = local("start", PREFECT_PORT=str(port))
    assert code == 1
    (line,) = said.splitlines()
    assert line.startswith(f"prefect: port {port} is taken")
    assert "PREFECT_PORT" in line
    assert not list((tmp_path / "control").glob("*.json"))


def test_a_worker_that_ends_at_once_is_not_taken_for_one_that_runs(tmp_path):
    program = "import local; local.Service('worker', ('false',)).start()"
    environment = {**os.environ, "DDLM_HOME": str(tmp_path), "PYTHONPATH": "infra", "PREFECT_PORT": free_port()}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "worker: did not come up (exit code 1); its last words are in" in done.stderr
    assert not list((tmp_path / "control").glob("*.json"))


def test_an_unknown_action_is_one_line(local):
    assert local("restart") == (1, "wanted one of start, status, stop\n")
