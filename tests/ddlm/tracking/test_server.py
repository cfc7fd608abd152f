"""A real MLflow server that is killed while a run reports to it, and comes back."""

import os
import signal
import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from ddlm.tracking.mlflow_client import connect

pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.fixture
def server(tmp_path, migrated):
    """Starts `mlflow server` on one port, as often as it is called; each is a process group that a test can kill."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "server").mkdir()
    database = tmp_path / "server" / "mlflow.db"
    database.write_bytes(migrated.read_bytes())
    started = []

    def start():
        command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}",
            "--artifacts-destination", str(tmp_path / "server" / "artifacts"), "--host", "127.0.0.1",
            "--port", str(port), "--workers", "1",
        ]  # fmt: skip
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        log = (tmp_path / "server.log").open("a")
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        log.close()
        started.append(process)
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        return f"http://127.0.0.1:{port}", process

    yield start
    for process in started:
        if process.poll() is None:
            kill(process)


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_for(address, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            urlopen(address, timeout=1).close()
        except (URLError, OSError):
            time.sleep(0.3)
        else:
            return
    raise AssertionError("the server does not answer")


def test_a_run_outlives_its_server_and_its_metrics_arrive_later(server, home, track, tmp_path, caplog, capsys):
    (tmp_path / "report.html").write_text("<p>")
    uri, process = server()
    tracker = track(uri=uri, flush_every_s=0.2)
    with tracker.stage("train") as run:
        assert run.id
        run.log({"train/nll_nats": 5.0}, 1)
        time.sleep(1)
        kill(process)
        started = time.monotonic()
        for step in range(2, 100):
            run.log({"train/nll_nats": 5.0 - step / 100}, step)
        assert time.monotonic() - started < 0.1
    tracker.finish({"evaluation/bits_per_byte": 1.5}, [(tmp_path / "report.html", "evaluation")])
    assert len([record for record in caplog.records if record.name.startswith("ddlm")]) == 1
    assert [path.name for path in (home / "spool").iterdir()] == [f"{tracker.run_id}.jsonl"]

    server()
    later = track(uri=uri)
    with later.stage("corpus"):
        pass
    later.finish({})
    client = connect(uri)
    assert len(client.get_metric_history(run.id, "train/nll_nats")) == 99
    parent = client.get_run(tracker.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["evaluation/bits_per_byte"] == 1.5
    assert [item.path for item in client.list_artifacts(tracker.run_id, "evaluation")] == ["evaluation/report.html"]
    assert list((home / "spool").iterdir()) == []
    assert capsys.readouterr().out == ""


def test_a_run_has_an_address_and_so_have_its_files(server, home, track, tmp_path):
    (tmp_path / "film one.gif").write_bytes(b"GIF89a")
    uri, _ = server()
    flow_run = "http://127.0.0.1:4200/flow-runs/flow-run/1"
    tracker = track(uri=uri, tags={"prefect.flow_run_url": flow_run})
    assert tracker.address() is None
    with tracker.stage("corpus"):
        pass
    tracker.finish({}, [(tmp_path / "film one.gif", "")])
    run = connect(uri).get_run(tracker.run_id)
    assert tracker.address() == f"{uri}/#/experiments/{run.info.experiment_id}/runs/{tracker.run_id}"
    assert urlopen(tracker.address("film one.gif")).read() == b"GIF89a"
    assert f"]({flow_run})" in run.data.tags["mlflow.note.content"]


def test_a_frozen_server_does_not_hold_training_up(server, home, track):
    uri, process = server()
    tracker = track(uri=uri, flush_every_s=0.1)
    with tracker.stage("train") as run:
        os.killpg(process.pid, signal.SIGSTOP)
        slowest = 0.0
        for step in range(20):
            started = time.monotonic()
            run.log({"train/nll_nats": 1.0}, step)
            slowest = max(slowest, time.monotonic() - started)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGCONT)
    assert slowest < 0.05
    tracker.finish({})
    assert len(connect(uri).get_metric_history(run.id, "train/nll_nats")) == 20
