"""The choice of a backend, and the ones beside MLflow."""

import importlib.util
import json

import pytest

from ddlm.config import UserError


def test_json_lines_hold_the_whole_run(home, track):
    tracker = track("jsonl", params={"seed": 3})
    with tracker.stage("train") as run:
        run.log({"train/nll_nats": 5.0}, 10)
    tracker.finish({"evaluation/bits_per_byte": 1.5}, tags={"digest.train": "abc"})
    path = home / "tracking" / f"{tracker.run_id}.jsonl"
    _, *events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["call"] for event in events] == ["start", "start", "metrics", "end", "tag", "metrics", "end"]
    assert events[0]["arguments"]["params"] == {"seed": "3"}
    assert events[1]["run"] == run.id
    assert events[1]["arguments"]["parent"] == tracker.run_id
    assert events[2]["arguments"]["rows"][0][:3] == ["train/nll_nats", 5.0, 10]
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


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed here")
def test_wandb_without_its_package_is_refused_by_name(track):
    with pytest.raises(UserError, match=r"wandb.*pip install 'ddlm\[wandb\]'"):
        track("wandb")


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "file:///tmp/mlruns"])
def test_a_folder_as_mlflow_store_is_refused(track, uri):
    with pytest.raises(UserError, match=r"keeps no runs in folders; write sqlite:///"):
        track(uri=uri)
