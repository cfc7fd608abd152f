"""A store that fails: training goes on, nothing is lost, and a later run delivers it."""

import json
import logging
import shutil
import socket
import sqlite3
import time
from contextlib import closing

import pytest

from ddlm.tracking import Tracker, TrackingConfig
from ddlm.tracking.backends import NewRun, Row
from ddlm.tracking.mlflow_client import connect
from ddlm.tracking.mlflow_runs import MlflowRuns
from ddlm.tracking.spool import Spool, replay


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def blocked(home, migrated):
    """A store whose folder is a file, and what mends it."""
    store = home / "elsewhere"
    home.mkdir()
    store.write_text("in the way")

    def mend():
        store.unlink()
        store.mkdir()
        shutil.copy(migrated, store / "mlflow.db")

    return f"sqlite:///{store / 'mlflow.db'}", mend


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def events_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()][1:]


def all_runs(uri):
    client = connect(uri)
    found = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return {run.info.run_name: run for run in found}


def break_metrics(path, *, mend=False):
    """Writing a metric fails, or works again, while everything else does."""
    old, new = ("hidden", "metrics") if mend else ("metrics", "hidden")
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"ALTER TABLE {old} RENAME TO {new}")


def test_a_run_without_its_server_goes_on_at_once_and_says_so_once(home, track, closed_port, caplog):
    started = time.monotonic()
    tracker = track(uri=closed_port, flush_every_s=0.01)
    for name in ("corpus", "train"):
        with tracker.stage(name) as run:
            for step in range(1000):
                run.log({"train/nll_nats": 1.0}, step)
            assert run.id is None
    assert tracker.run_id is None
    tracker.finish({"evaluation/bits_per_byte": 1.0})
    assert time.monotonic() - started < 10
    (warning,) = warnings_in(caplog)
    assert closed_port in warning
    assert str(home / "spool") in warning
    assert "\n" not in warning
    (path,) = (home / "spool").iterdir()
    rows = [row for event in events_in(path) if event["call"] == "metrics" for row in event["arguments"]["rows"]]
    assert len([row for row in rows if row[0] == "train/nll_nats"]) == 2000


def test_a_spooled_run_is_delivered_by_the_next_run_with_its_own_times(blocked, home, track, tmp_path):
    uri, mend = blocked
    (tmp_path / "report.html").write_text("<p>")
    before = time.time() * 1000 - 1
    tracker = track(uri=uri, params={"seed": 7}, tags={"prefect.flow_run_id": "flow-1"})
    with tracker.stage("train") as run:
        run.log({"train/nll_nats": 5.0}, 10)
    uploads = [(tmp_path / "report.html", "evaluation"), (tmp_path / "gone.gif", "render")]
    tracker.finish({"evaluation/bits_per_byte": 1.5}, uploads)
    after = time.time() * 1000
    mend()
    time.sleep(0.05)
    later = track(uri=uri)
    with later.stage("corpus"):
        pass
    later.finish({})
    client = connect(uri)
    first, second = sorted(_parents(client), key=lambda run: run.info.start_time)
    assert second.info.run_id == later.run_id
    assert first.data.params == {"seed": "7"}
    assert first.data.tags["prefect.flow_run_id"] == "flow-1"
    assert first.data.metrics["evaluation/bits_per_byte"] == 1.5
    assert first.info.status == "FINISHED"
    assert before <= first.info.start_time <= first.info.end_time <= after
    assert [item.path for item in client.list_artifacts(first.info.run_id, "evaluation")] == ["evaluation/report.html"]
    (metric,) = client.get_metric_history(first.info.run_id, "train/nll_nats")
    assert (metric.step, metric.value) == (10, 5.0)
    assert before <= metric.timestamp <= after
    assert list((home / "spool").iterdir()) == []


def _parents(client):
    experiment = client.get_experiment_by_name("tale")
    return [run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == "tale"]


def test_metrics_that_fail_in_the_middle_of_a_run_are_delivered_at_its_end(stored_home, track, caplog):
    database = stored_home / "mlflow.db"
    tracker = track()
    with tracker.stage("train") as run:
        run.log({"train/nll_nats": 5.0}, 1)
        break_metrics(database)
        tracker._outbox.flush()
        (path,) = (stored_home / "spool").iterdir()
        assert path.name == f"{tracker.run_id}.jsonl"
        break_metrics(database, mend=True)
        run.log({"train/nll_nats": 4.0}, 2)
    assert len(warnings_in(caplog)) == 1
    tracker.finish({})
    history = connect(f"sqlite:///{database}").get_metric_history(run.id, "train/nll_nats")
    assert [(metric.step, metric.value) for metric in history] == [(1, 5.0), (2, 4.0)]
    assert list((stored_home / "spool").iterdir()) == []


def test_a_store_that_recovers_takes_metrics_again_in_the_same_run(stored_home, track, monkeypatch, caplog):
    monkeypatch.setattr("ddlm.tracking.outbox.RETRY_AFTER_S", 0.0)
    tracker = track()
    client = connect(f"sqlite:///{stored_home / 'mlflow.db'}")
    with tracker.stage("train") as run:
        break_metrics(stored_home / "mlflow.db")
        for step in (1, 2):
            run.log({"train/nll_nats": 5.0}, step)
            tracker._outbox.flush()
        assert len(warnings_in(caplog)) == 1
        break_metrics(stored_home / "mlflow.db", mend=True)
        run.log({"train/nll_nats": 4.0}, 3)
        tracker._outbox.flush()
        assert client.get_run(run.id).data.metrics["train/nll_nats"] == 4.0
    tracker.finish({})
    assert len(client.get_metric_history(run.id, "train/nll_nats")) == 3


def spooled_run(folder, uri, *, is_ended=True):
    """A spool file as a run without its store leaves it."""
    spool = Spool(folder, MlflowRuns(uri).store)
    parent = spool.start(_new("tale", None))
    stage = spool.start(_new("train", parent))
    spool.metrics(stage, [Row("train/nll_nats", 5.0, 1, 1000), Row("train/nll_nats", 4.0, 2, 2000)])
    if is_ended:
        spool.end(stage, "FINISHED", 3000)
        spool.end(parent, "FINISHED", 4000)
    return spool


def _new(name, parent):
    return NewRun("tale", name, parent, {"seed": "1"}, {}, 500)


@pytest.fixture
def opened(stored_home):
    backend = MlflowRuns(None)
    backend.open()
    return backend


def test_a_replay_that_was_cut_short_repeats_nothing(opened, stored_home):
    spool = spooled_run(stored_home / "spool", None)
    spool.close()
    kept = spool.path.read_text()
    assert replay(opened, spool.folder) == 1
    spool.path.write_text(kept)
    assert replay(opened, spool.folder) == 1
    uri = f"sqlite:///{stored_home / 'mlflow.db'}"
    client = connect(uri)
    assert len(_parents(client)) == 1
    assert len(client.get_metric_history(all_runs(uri)["train"].info.run_id, "train/nll_nats")) == 2


def test_a_spooled_run_returns_to_its_own_experiment(blocked, home, track):
    uri, mend = blocked
    spooled_run(home / "spool", uri).close()
    mend()
    other = Tracker(TrackingConfig(uri=uri), experiment="saga", params={}, tags={})
    with other.stage("corpus"):
        pass
    other.finish({})
    client = connect(uri)
    assert len(_parents(client)) == 1
    assert len(client.search_runs([client.get_experiment_by_name("saga").experiment_id])) == 1


def test_a_run_that_was_killed_while_spooling_is_delivered_as_killed(opened, stored_home):
    spool = spooled_run(stored_home / "spool", None, is_ended=False)
    spool.close()
    with spool.path.open("a") as handle:
        handle.write('{"call": "metrics", "run": "cut o')
    assert replay(opened, spool.folder) == 1
    runs = all_runs(f"sqlite:///{stored_home / 'mlflow.db'}")
    assert {name: run.info.status for name, run in runs.items()} == {"tale": "KILLED", "train": "KILLED"}
    assert runs["train"].data.metrics == {"train/nll_nats": 4.0}


def test_a_spool_file_that_is_still_written_is_left_alone(opened, stored_home):
    spool = spooled_run(stored_home / "spool", None)
    assert replay(opened, spool.folder) == 0
    spool.close()
    assert replay(opened, spool.folder) == 1


def test_a_spool_file_of_another_store_is_left_alone(opened, stored_home):
    spool = spooled_run(stored_home / "spool", "http://127.0.0.1:1")
    spool.close()
    assert replay(opened, spool.folder) == 0
    assert spool.path.exists()


def test_a_spool_file_that_the_store_refuses_is_set_aside_and_named(opened, stored_home, caplog):
    spool = Spool(stored_home / "spool", opened.store, name="unknown-run")
    spool.metrics("f" * 32, [Row("train/nll_nats", 5.0, 1, 1000)])
    spool.close()
    assert replay(opened, spool.folder) == 0
    assert [path.name for path in spool.folder.iterdir()] == ["unknown-run.rejected"]
    (warning,) = warnings_in(caplog)
    assert "unknown-run" in warning


def test_a_spool_that_can_not_be_written_does_not_stop_the_run(home, track, closed_port, caplog):
    home.mkdir()
    (home / "spool").write_text("in the way")
    tracker = track(uri=closed_port)
    for name in ("corpus", "train"):
        with tracker.stage(name) as run:
            run.log({"train/nll_nats": 1.0}, 1)
    tracker.finish({})
    first, second = warnings_in(caplog)
    assert closed_port in first
    assert "metrics are lost" in second
