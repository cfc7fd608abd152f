"""What a run leaves in an MLflow database."""

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
from ddlm.tracking.mlflow_client import connect


def client_of(home):
    return connect(f"sqlite:///{home / 'mlflow.db'}")


def nested(client, parent_id):
    """The nested runs by name."""
    experiment = client.get_run(parent_id).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent_id}'")
    return {run.info.run_name: run for run in runs}


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


def test_stages_are_runs_nested_in_one_parent(stored_home, track):
    tracker = track(tags={"prefect.flow_run_id": "flow-1"})
    for name in ("corpus", "tokenizer"):
        with tracker.stage(name) as run:
            assert run.id
    tracker.finish({})
    client = client_of(stored_home)
    assert (tracker.address(), tracker.address("report.html")) == (None, None)  # a database has no pages
    parent = client.get_run(tracker.run_id)
    assert parent.info.run_name == "tale"
    assert client.get_experiment(parent.info.experiment_id).name == "tale"
    assert parent.data.tags["prefect.flow_run_id"] == "flow-1"
    assert parent.data.tags["ddlm.version"] == __version__
    assert parent.data.tags["host"] == socket.gethostname()
    runs = nested(client, tracker.run_id)
    assert set(runs) == {"corpus", "tokenizer"}
    assert {run.info.status for run in [parent, *runs.values()]} == {"FINISHED"}


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
    assert client.get_run(runs[0]).info.status == "FAILED"
    assert client.get_run(runs[0]).data.metrics == {"train/nll_nats": 3.0}
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
    assert client_of(stored_home).get_run(run.id).info.status == "FINISHED"
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
    assert parent.data.metrics == {"evaluation/bits_per_byte": 1.25}
    assert parent.data.tags["digest.train"] == "abc"
    assert parent.info.artifact_uri.startswith((stored_home / "mlartifacts").as_uri())
    for folder in ("bundle", "copies/bundle"):
        vocabulary = client.download_artifacts(tracker.run_id, f"{folder}/tokenizer/vocab.json", str(tmp_path))
        assert Path(vocabulary).read_text() == "{}"
    assert [item.path for item in client.list_artifacts(tracker.run_id, "evaluation")] == ["evaluation/report.html"]


def test_stages_in_parallel_threads_keep_their_metrics_apart(stored_home, track):
    tracker = track(flush_every_s=0.01)
    together = threading.Barrier(3)
    ids = {}

    def build(name):
        together.wait()
        with tracker.stage(name) as run:
            ids[name] = run.id
            for step in range(200):
                run.log({f"{name}/value": float(step)}, step)

    threads = [threading.Thread(target=build, args=(name,)) for name in ("evaluate", "render", "export")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracker.finish({})
    client = client_of(stored_home)
    assert set(nested(client, tracker.run_id)) == set(ids)
    for name, run_id in ids.items():
        assert set(client.get_run(run_id).data.metrics) == {f"{name}/value"}
        assert len(client.get_metric_history(run_id, f"{name}/value")) == 200


def test_a_deleted_mlflow_experiment_comes_back_with_its_next_run(stored_home, track):
    client = client_of(stored_home)
    client.delete_experiment(client.create_experiment("tale"))
    tracker = track()
    with tracker.stage("corpus"):
        pass
    tracker.finish({})
    assert client.get_experiment_by_name("tale").lifecycle_stage == "active"
