"""The choice of a backend, and the ones beside MLflow."""

import importlib
import json
from importlib.util import find_spec

import pytest

from ddlm.config import UserError
from ddlm.tracking import wandb_runs

needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")


def test_json_lines_hold_the_whole_run(home, track):
    tracker = track("jsonl", params={"seed": 3})
    with tracker.stage("train") as run:
        run.log({"train/nll_nats": 5.0}, 10)
    tracker.finish({"evaluation/bits_per_byte": 1.5}, tags={"digest.train": "abc"})
    path = home / "tracking" / f"{tracker.run_id}.jsonl"
    _, *events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["call"] for event in events] == ["start", "metrics", "tag", "metrics", "end"]
    assert events[0]["arguments"]["params"] == {"seed": "3"}
    assert {event["run"] for event in events} == {run.id} == {tracker.run_id}
    rows = {row[0]: row[1:3] for row in events[1]["arguments"]["rows"]}
    assert rows["train/nll_nats"] == rows["train/loss"] == [5.0, 10]
    assert events[-1] == {"call": "end", "run": tracker.run_id, "arguments": events[-1]["arguments"]}
    assert events[-1]["arguments"]["status"] == "FINISHED"


def test_the_backend_none_keeps_nothing(home, track):
    tracker = track("none")
    with tracker.stage("train") as run:
        run.log({"train/nll_nats": 5.0}, 10)
        assert run.id is None
    tracker.finish({"evaluation/bits_per_byte": 1.5})
    assert tracker.run_id is None
    assert not home.exists()


def test_wandb_without_its_package_is_refused_by_name(track, monkeypatch):
    monkeypatch.setattr(wandb_runs, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"wandb.*pip install 'ddlm\[wandb\]'"):
        track("wandb")


@needs_wandb
@pytest.mark.filterwarnings("ignore")  # wandb's own, from its imports and its threads
def test_wandb_offline_keeps_the_metrics_for_a_later_sync(home, track, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    importlib.import_module("wandb").teardown()  # it reads its settings once a process
    tracker = track("wandb")
    with tracker.stage("train") as run:
        run.log({"train/nll_nats": 5.0}, 10)
    tracker.finish({})
    kept = [path.read_bytes() for path in home.glob("wandb/offline-run-*/*.wandb")]
    assert len(kept) == 1
    assert any(b"train/nll_nats" in content for content in kept)


@needs_wandb
@pytest.mark.filterwarnings("ignore")
def test_wandb_without_a_key_is_one_line_and_the_run_goes_on(home, track, monkeypatch, caplog, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    importlib.import_module("wandb").teardown()  # it reads its settings once a process
    tracker = track("wandb")
    with tracker.stage("train") as run:
        run.log({"train/nll_nats": 5.0}, 10)
    tracker.finish({})
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("ddlm")]
    assert len(lines) == 1
    assert "No API key configured" in lines[0]
    assert "train/nll_nats" in "".join(path.read_text() for path in (home / "spool").rglob("*") if path.is_file())


@pytest.mark.parametrize("uri", ["nonsense://u:secret@x", "ftp://x/y"])
def test_what_is_no_store_is_refused_before_anything_is_built(track, uri):
    with pytest.raises(
        UserError, match=r"not an address that MLflow knows; wanted one that begins with http, "
    ) as said:
        track(uri=uri)
    assert "secret" not in str(said.value)


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "file:///tmp/mlruns"])
def test_a_folder_as_mlflow_store_is_refused(track, uri):
    with pytest.raises(UserError, match=r"keeps no runs in folders; write sqlite:///"):
        track(uri=uri)
