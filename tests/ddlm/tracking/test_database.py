"""Opening the database: alone, and never half made."""

import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from base64 import b64encode
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ddlm.tracking.backends import Unavailable
from ddlm.tracking.mlflow_client import _probe, connect

PROGRAM = """
import sys, time
from pathlib import Path
from ddlm.tracking import Tracker, TrackingConfig
import mlflow, mlflow.store.tracking.sqlalchemy_store
Path(sys.argv[1]).touch()
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
tracker = Tracker(TrackingConfig(), experiment='tale', params={}, tags={})
with tracker.stage('corpus') as run:
    assert run.id
tracker.finish({})
"""


@pytest.mark.slow
def test_two_processes_may_open_a_fresh_database_at_once(home, tmp_path):
    names = [(tmp_path / "one", tmp_path / "two"), (tmp_path / "two", tmp_path / "one")]
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, mine, other], stderr=subprocess.PIPE, text=True)
        for mine, other in names
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert [error for error in errors if "tracking:" in error] == []
    client = connect(f"sqlite:///{home / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "tale"]
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_what_a_killed_creation_left_is_swept_away(migrated):
    assert sorted(path.name for path in migrated.parent.iterdir()) == ["mlflow.db", "mlflow.db.lock"]
    assert connect(f"sqlite:///{migrated}").search_experiments()


def test_junk_in_place_of_the_database_is_one_line(home):
    home.mkdir()
    (home / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(Unavailable, match=r"MLflow at sqlite:///.*mlflow.db: file is not a database$"):
        connect(f"sqlite:///{home / 'mlflow.db'}")


def test_a_locked_database_is_given_up_within_seconds(stored_home):
    started = time.monotonic()
    with closing(sqlite3.connect(stored_home / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="database is locked"):
            connect(f"sqlite:///{stored_home / 'mlflow.db'}")
    assert time.monotonic() - started < 8


def test_a_home_with_spaces_and_marks_works(tmp_path, monkeypatch, migrated, track):
    home = tmp_path / "my höme #1 100%"
    home.mkdir()
    monkeypatch.setenv("DDLM_HOME", str(home))
    shutil.copy(migrated, home / "mlflow.db")
    (tmp_path / "report.html").write_text("<p>")
    tracker = track()
    with tracker.stage("corpus"):
        pass
    tracker.finish({}, [(tmp_path / "report.html", "evaluation")])
    client = connect(f"sqlite:///{home / 'mlflow.db'}")
    assert [item.path for item in client.list_artifacts(tracker.run_id, "evaluation")] == ["evaluation/report.html"]
    assert list(home.rglob("report.html")) != []


class Gate(BaseHTTPRequestHandler):
    """A server behind a login: answers 503 to everybody else."""

    def do_GET(self):
        is_known = self.headers.get("Authorization") == f"Basic {b64encode(b'me:p@ss w').decode()}"
        self.send_response(200 if is_known and self.path == "/health" else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def gate():
    with ThreadingHTTPServer(("127.0.0.1", 0), Gate) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("login", ["me:p@ss%20w", "me:p%40ss%20w"])
def test_a_server_is_asked_with_the_login_of_its_address(gate, login):
    _probe(f"http://{login}@{gate}")


def test_a_wrong_login_is_a_line_without_it(gate):
    with pytest.raises(Unavailable, match=rf"MLflow at http://\*\*\*@{gate}: HTTP Error 503") as raised:
        _probe(f"http://me:wrong@{gate}")
    assert "wrong" not in str(raised.value)
