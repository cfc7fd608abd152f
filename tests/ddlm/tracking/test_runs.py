"""What a run leaves in an MLflow database."""

import json
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ddlm import __version__
from ddlm.tracking import provenance
from ddlm.tracking.backends import Dataset
from ddlm.tracking.mlflow_client import connect


def client_of(home):
    return connect(f"sqlite:///{home / 'mlflow.db'}")


def test_a_tracker_opens_nothing_before_a_stage_builds(home):
    program = (
        "import sys; from ddlm.tracking import Tracker, TrackingConfig\n"
        "tracker = Tracker(TrackingConfig(), experiment='tale', params={}, tags={})\n"
        "tracker.finish({'evaluation/bits_per_byte': 1.0}); tracker.fail()\n"
        "assert tracker.run_id is None\n"
        "assert not {'mlflow', 'torch', 'sqlalchemy', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert not home.exists()


def test_the_stages_of_an_experiment_report_to_one_run(stored_home, track):
    tracker = track(tags={"prefect.flow_run_id": "flow-1"}, params={"seed": 3}, name="tale seed=3")
    for name in ("corpus", "train"):
        with tracker.stage(name) as run:
            assert run.id == tracker.run_id
    run.log({"train/nll_nats": 2.0, "val/nll_nats": 1.0}, 1)
    tracker.finish({"evaluation/nll_nats": 0.5})
    client = client_of(stored_home)
    assert (tracker.address(), tracker.address("report.html")) == (None, None)  # a database has no pages
    found = client.get_run(tracker.run_id)
    experiment = client.get_experiment(found.info.experiment_id)
    assert [each.info.run_id for each in client.search_runs([experiment.experiment_id])] == [tracker.run_id]
    assert (found.info.run_name, found.info.status, experiment.name) == ("tale seed=3", "FINISHED", "tale")
    assert found.data.tags["prefect.flow_run_id"] == "flow-1"
    assert found.data.tags["ddlm.version"] == __version__
    assert found.data.tags["host"] == socket.gethostname()
    assert found.data.params == {"seed": "3"}
    assert {"stage/corpus_s", "stage/train_s", "train/nll_nats", "evaluation/nll_nats"} <= set(found.data.metrics)


def test_metrics_have_the_names_too_by_which_people_look_for_them(stored_home, track):
    tracker = track()
    with tracker.stage("train") as run:
        run.log({"train/nll_nats": 2.0, "val/nll_nats": 1.0}, 5)
    tracker.finish({"evaluation/nll_nats": 0.5})
    found = client_of(stored_home).get_run(tracker.run_id).data.metrics
    assert (found["train/loss"], found["val/loss"]) == (2.0, 1.0)
    assert found["val/perplexity"] == pytest.approx(math.e)
    assert found["evaluation/perplexity"] == pytest.approx(math.exp(0.5))


def test_a_run_names_its_data(stored_home, track):
    tracker = track()
    with tracker.stage("corpus"):
        pass
    data = [Dataset("tale", "abc-train", "training", "stories.txt", {"rows": 12.0})]
    tracker.finish({}, datasets=data)
    (used,) = client_of(stored_home).get_run(tracker.run_id).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("tale", "abc-train")
    assert json.loads(used.dataset.source) == {"uri": "stories.txt"}
    assert json.loads(used.dataset.profile) == {"rows": 12.0}
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]


def test_an_experiment_opens_as_model_training(stored_home, track):
    client = client_of(stored_home)
    client.create_experiment("tale")  # as earlier releases did
    tracker = track()
    with tracker.stage("corpus"):
        pass
    tracker.finish({})
    tags = client.get_experiment_by_name("tale").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_run_says_how_busy_the_machine_was_unless_that_is_turned_off(stored_home, track, monkeypatch):
    monkeypatch.setattr("ddlm.tracking.system.EVERY_S", 0.05)
    found = []
    for is_wanted in (True, False):
        tracker = track(system_metrics=is_wanted)
        with tracker.stage("train"):
            deadline = time.monotonic() + 10
            while is_wanted and not tracker._outbox._pending and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.2)
        tracker.finish({})
        found.append(client_of(stored_home).get_run(tracker.run_id).data.metrics)
    assert "system/cpu_utilization_percentage" in found[0]
    assert not [name for name in found[1] if name.startswith("system/")]


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({}, "quick"),
        ({"training.learning_rate": 0.01, "seed": 2}, "quick seed=2 learning_rate=0.01"),
        ({"tracking.uri": "http://u:secret@h"}, "quick uri=http://***@h"),
        (dict.fromkeys("abcd", 1), "quick a=1 b=1 c=1 …"),
    ],
)
def test_a_run_is_named_by_what_differs_and_by_its_commit(overrides, name):
    commit = provenance.commit_of_code()
    assert provenance.name_of("quick", overrides) == f"{name} at {commit[:7]}"


def test_the_command_is_what_was_typed_without_its_secrets(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/venv/bin/ddlm", "run", "a b.toml", "--set", "tracking.uri=http://u:p@ss@h"])
    assert provenance.command() == "ddlm run 'a b.toml' --set 'tracking.uri=http://***@h'"
    monkeypatch.setattr(sys, "argv", ["/prefect/engine.py", "secret"])
    assert provenance.command() == "engine.py"


@pytest.mark.parametrize(
    ("address", "shown", "bare"),
    [
        ("https://me:secret@h", "https://***@h", "https://h"),
        ("http://u:se@cret@h:5000/x", "http://***@h:5000/x", "http://h:5000/x"),
        ("postgresql://u:se/cret@h/db", "postgresql://***@h/db", "postgresql://h/db"),
        ("http://u:se?c#ret@h", "http://***@h", "http://h"),
        ("http://secret@h", "http://***@h", "http://h"),
        ("postgresql://h/db?user=u&password=sec#ret", "postgresql://h/db?user=***&password=***", None),
        ("https://h/?token=secret", "https://h/?token=***", None),
        ("http://h/#access_token=secret", "http://h/#access_token=***", None),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("s3://bucket/a@b", "s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_passwords_are_struck_out_of_addresses(address, shown, bare):
    assert provenance.without_password(address) == shown
    assert provenance.without_password(f"refused: {address} and more") == f"refused: {shown} and more"
    assert provenance.without_login(address) == (bare or shown)


def test_metrics_keep_the_step_and_the_time_at_which_they_were_logged(stored_home, track):
    tracker = track()
    with tracker.stage("train") as run:
        before = time.time() * 1000 - 1
        run.log({"train/nll_nats": 5.0, "perf/tokens_per_s": 900.0}, 10)
        run.log({"train/nll_nats": 4.0}, 20)
        after = time.time() * 1000
        time.sleep(0.05)
    history = client_of(stored_home).get_metric_history(run.id, "train/nll_nats")
    assert [(metric.step, metric.value) for metric in history] == [(10, 5.0), (20, 4.0)]
    assert all(before <= metric.timestamp <= after for metric in history)
    tracker.fail()


def test_metrics_arrive_while_a_stage_still_runs(stored_home, track):
    tracker = track(flush_every_s=0.05)
    client = client_of(stored_home)
    with tracker.stage("train") as run:
        run.log({"train/nll_nats": 5.0}, 1)
        deadline = time.monotonic() + 10
        while "train/nll_nats" not in client.get_run(run.id).data.metrics:
            assert time.monotonic() < deadline, "no flush"
            time.sleep(0.05)
    tracker.finish({})


def test_more_metrics_and_params_than_a_batch_takes_all_arrive(stored_home, track):
    params = {"model": {f"field_{number}": number for number in range(250)}, "corpus": {"source": "x" * 7000}}
    tracker = track(params=params)
    with tracker.stage("train") as run:
        for step in range(2500):
            run.log({"train/nll_nats": float(step)}, step)
    tracker.finish({})
    client = client_of(stored_home)
    assert len(client.get_metric_history(run.id, "train/nll_nats")) == 2500
    stored = client.get_run(tracker.run_id).data.params
    assert len(stored) == 251
    assert stored["model.field_249"] == "249"
    assert stored["corpus.source"].startswith("xxx")
    assert stored["corpus.source"].endswith("x…")


def test_the_config_is_stored_flat_without_absent_values_and_passwords(stored_home, track):
    address = "https://me:secret@mlflow.example"
    params = {
        "name": "tale", "model": {"tied": True, "dropout": None}, "training": {"betas": [0.9, 0.95]},
        "tracking": {"uri": address},
    }  # fmt: skip
    tracker = track(params=params)
    with tracker.stage("corpus"):
        pass
    tracker.finish({})
    assert client_of(stored_home).get_run(tracker.run_id).data.params == {
        "name": "tale", "model.tied": "true", "training.betas": "[0.9, 0.95]",
        "tracking.uri": "https://***@mlflow.example",
    }  # fmt: skip


def test_a_run_names_the_commit_of_its_code(stored_home, track, monkeypatch, tmp_path):
    repository = tmp_path / "repository"
    package = repository / "ddlm" / "tracking"
    package.mkdir(parents=True)
    (package / "provenance.py").write_text("x = 1\n")
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@t"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    tags = []
    for text in ("x = 1\n", "x = 2\n"):
        (package / "provenance.py").write_text(text)
        tracker = track()
        with tracker.stage("corpus"):
            pass
        tracker.finish({})
        tags.append(client_of(stored_home).get_run(tracker.run_id).data.tags)
    assert [tag["mlflow.source.git.commit"] for tag in tags] == [commit, commit]
    assert [tag["git.dirty"] for tag in tags] == ["false", "true"]


def test_a_tree_that_was_sent_to_a_box_is_named_by_its_commit_and_a_repository_around_it_is_not_ours(
    monkeypatch, tmp_path
):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    git = ["git", "-C", tmp_path, "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    names = ["0123456789abcdef0123456789abcdef01234567", "site-packages"]
    found = []
    for name in names:
        package = tmp_path / name / "ddlm" / "tracking"
        package.mkdir(parents=True)
        (package / "provenance.py").touch()
        monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
        found.append(provenance.commit_of_code())
    assert found == [names[0], None]


def test_a_failing_stage_fails_its_run_and_its_error_passes(stored_home, track):
    tracker = track()
    runs = []

    def build():
        with tracker.stage("train") as run:
            runs.append(run.id)
            run.log({"train/nll_nats": 3.0}, 1)
            raise ValueError("nan loss")

    with pytest.raises(ValueError, match="nan loss"):
        build()
    tracker.fail()
    client = client_of(stored_home)
    assert client.get_run(runs[0]).data.metrics["train/nll_nats"] == 3.0
    assert client.get_run(runs[0]).data.tags["ddlm.failed_stage"] == "train"
    assert client.get_run(tracker.run_id).info.status == "FAILED"


def test_a_flow_run_that_goes_on_ends_what_its_killed_attempt_left_running(stored_home, track):
    mine, other = {"prefect.flow_run_id": "one"}, {"prefect.flow_run_id": "two"}
    client, left, never_left = client_of(stored_home), [], []
    for tags in (mine, other):
        tracker = track(tags=tags)
        never_left.append(tracker.stage("train"))
        left.append((never_left[-1].__enter__().id, tracker.run_id))
    again = track(tags=mine)
    with again.stage("train"):
        statuses = [[client.get_run(run).info.status for run in pair] for pair in left]
    assert statuses == [["KILLED", "KILLED"], ["RUNNING", "RUNNING"]]
    again.finish({})
    assert client.get_run(again.run_id).info.status == "FINISHED"


KILLED_IN_A_STAGE = """
import os, signal
from ddlm.tracking import Tracker, TrackingConfig
tracker = Tracker(TrackingConfig(), experiment="tale", params={}, tags={})
with tracker.stage("corpus"):
    pass
with tracker.stage("train") as run:
    run.log({"train/nll_nats": 3.0}, 1)
    print(tracker.run_id, run.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_run_of_anything_ends_what_a_killed_process_left_open(stored_home, track):
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_A_STAGE], capture_output=True, text=True, check=False)
    client, runs = client_of(stored_home), killed.stdout.split()
    assert killed.returncode == -signal.SIGKILL
    assert [client.get_run(run).info.status for run in runs] == ["RUNNING", "RUNNING"]
    alive, next_one = track(), track()
    with alive.stage("train") as going_on:
        with next_one.stage("train"):
            pass
        next_one.finish({})
        assert client.get_run(going_on.id).info.status == "RUNNING"
        assert [client.get_run(run).info.status for run in runs] == ["KILLED", "KILLED"]
        assert client.get_run(runs[0]).info.end_time
    alive.finish({})
    assert not list((stored_home / "spool").iterdir())


def test_a_stage_that_a_thread_still_builds_ends_with_its_run(stored_home, track):
    tracker = track()
    stage = tracker.stage("train")
    run = stage.__enter__()
    tracker.close("KILLED")
    assert client_of(stored_home).get_run(run.id).info.status == "KILLED"
    assert not list((stored_home / "spool").iterdir())
    stage.__exit__(None, None, None)  # the thread is done after all
    assert client_of(stored_home).get_run(run.id).info.status == "KILLED"
    assert not list((stored_home / "spool").iterdir())


def test_an_interrupted_stage_is_marked_killed(stored_home, track):
    tracker = track()
    with pytest.raises(KeyboardInterrupt), tracker.stage("train") as run:
        raise KeyboardInterrupt
    tracker.close("KILLED")
    client = client_of(stored_home)
    assert {client.get_run(each).info.status for each in (run.id, tracker.run_id)} == {"KILLED"}


def test_the_parent_ends_with_scores_files_and_tags(stored_home, track, tmp_path):
    (tmp_path / "bundle" / "tokenizer").mkdir(parents=True)
    (tmp_path / "bundle" / "tokenizer" / "vocab.json").write_text("{}")
    (tmp_path / "report.html").write_text("<p>")
    tracker = track()
    with tracker.stage("evaluate"):
        pass
    uploads = [(tmp_path / "bundle", ""), (tmp_path / "bundle", "copies"), (tmp_path / "report.html", "evaluation")]
    tracker.finish({"evaluation/bits_per_byte": 1.25}, uploads, {"digest.train": "abc"})
    client = client_of(stored_home)
    parent = client.get_run(tracker.run_id)
    assert parent.data.metrics["evaluation/bits_per_byte"] == 1.25
    assert parent.data.tags["digest.train"] == "abc"
    assert parent.info.artifact_uri.startswith((stored_home / "mlartifacts").as_uri())
    for folder in ("bundle", "copies/bundle"):
        vocabulary = client.download_artifacts(tracker.run_id, f"{folder}/tokenizer/vocab.json", str(tmp_path))
        assert Path(vocabulary).read_text() == "{}"
    assert [item.path for item in client.list_artifacts(tracker.run_id, "evaluation")] == ["evaluation/report.html"]


def test_stages_in_parallel_threads_share_the_run(stored_home, track):
    tracker = track(flush_every_s=0.01)
    together = threading.Barrier(3)

    def build(name):
        together.wait()
        with tracker.stage(name) as run:
            for step in range(200):
                run.log({f"{name}/value": float(step)}, step)

    threads = [threading.Thread(target=build, args=(name,)) for name in ("evaluate", "render", "export")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracker.finish({})
    client = client_of(stored_home)
    for name in ("evaluate", "render", "export"):
        assert len(client.get_metric_history(tracker.run_id, f"{name}/value")) == 200


def test_a_deleted_mlflow_experiment_comes_back_with_its_next_run(stored_home, track):
    client = client_of(stored_home)
    client.delete_experiment(client.create_experiment("tale"))
    tracker = track()
    with tracker.stage("corpus"):
        pass
    tracker.finish({})
    assert client.get_experiment_by_name("tale").lifecycle_stage == "active"
