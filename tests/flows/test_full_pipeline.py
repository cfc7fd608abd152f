import json
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterId

from ddlm.cli import logging_to_stderr
from ddlm.config import Unreachable, UserError, home
from ddlm.experiment import load_experiment
from ddlm.experiment.stages import STAGES, Session, run_plainly
from flows.command import run
from flows.full_pipeline import full_pipeline
from flows.retrain import retrain
from tasks.corpus import corpus

TINY = str(Path(__file__).parents[2] / "configs" / "tiny.toml")
FAST = {"tracking.backend": "none"}
ALL_CACHED = dict.fromkeys(STAGES, "Cached")

pytestmark = pytest.mark.usefixtures("server")


def flow(**parameters: Any) -> UUID:
    """Run the pipeline; the flow run's id."""
    state = full_pipeline(TINY, FAST, **parameters, return_state=True)
    state.result()
    assert state.state_details.flow_run_id
    return state.state_details.flow_run_id


def states(flow_run_id: UUID) -> dict[str, str]:
    """What the server says each stage's task ended in. States travel as events, so they take a moment to arrive."""
    chosen = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    deadline = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        while True:
            tasks = client.read_task_runs(flow_run_filter=chosen)
            found = {task.name.rpartition("-")[0]: str(task.state_name) for task in tasks}
            arrived = found.keys() == STAGES.keys() and all(task.state and task.state.is_final() for task in tasks)
            if arrived or time.monotonic() > deadline:
                return found
            time.sleep(0.1)


def artifact(stage: str) -> Path:
    """The only artifact of a stage."""
    (path,) = (home() / "artifacts" / stage).iterdir()
    return path


def test_the_second_run_finds_everything_cached(work: ModuleType) -> None:
    assert states(flow()) == dict.fromkeys(STAGES, "Completed")
    assert states(flow()) == ALL_CACHED
    assert len(work.calls) == len(STAGES)


def test_what_a_run_without_prefect_built_counts_as_cached(work: ModuleType) -> None:
    run_plainly(Session(load_experiment(TINY, FAST)))
    assert states(flow()) == ALL_CACHED
    assert states(flow()) == ALL_CACHED


def test_only_the_wanted_stages_run(work: ModuleType) -> None:
    flow(until="render")
    assert work.calls == ["corpus", "tokenizer", "shards", "train", "render"]


def test_a_forced_stage_is_built_again_and_equal_bytes_leave_the_rest_cached(work: ModuleType) -> None:
    flow()
    assert states(flow(force=["shards"])) == {**ALL_CACHED, "shards": "Completed"}
    assert work.calls.count("shards") == 2


def test_retraining_fetches_the_corpus_again(work: ModuleType) -> None:
    flow()
    retrain(TINY, FAST)
    assert work.calls[len(STAGES) :] == ["corpus"]


def test_a_lost_file_is_noticed_though_prefect_has_a_record(work: ModuleType) -> None:
    flow()
    (artifact("tokenizer") / "made.json").unlink()
    assert states(flow()) == {**ALL_CACHED, "tokenizer": "Completed"}


def test_a_damaged_byte_is_noticed_when_verifying(work: ModuleType) -> None:
    flow()
    path = artifact("tokenizer") / "made.json"
    path.write_bytes(path.read_bytes()[::-1])
    assert states(flow()) == ALL_CACHED
    assert states(flow(verify=True)) == {**ALL_CACHED, "tokenizer": "Completed"}


def test_a_record_of_other_bytes_is_not_believed(work: ModuleType) -> None:
    """A run without Prefect may replace an artifact under the same key."""
    flow()
    work.products["corpus"] = ("made.json", "other stories")
    run_plainly(Session(load_experiment(TINY, FAST), force=frozenset({"corpus"})), until="corpus")
    assert states(flow())["tokenizer"] == "Completed"


def test_a_moved_home_is_found_at_its_new_place(
    work: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow(until="shards")
    home().rename(tmp_path / "moved")
    monkeypatch.setenv("DDLM_HOME", str(tmp_path / "moved"))
    assert states(flow()) == {name: "Cached" if name in work.calls[:3] else "Completed" for name in STAGES}


def test_evaluate_render_and_export_run_side_by_side(work: ModuleType) -> None:
    together = threading.Barrier(3, timeout=30)
    work.on_call |= dict.fromkeys(("evaluate", "render", "export"), together.wait)
    flow()
    assert work.calls[-1] == "publish"


def test_a_lost_connection_is_tried_again(work: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_twice() -> None:
        if work.calls.count("corpus") < 3:
            raise ConnectionResetError("peer")

    work.on_call["corpus"] = fail_twice
    monkeypatch.setattr(corpus, "retry_delay_seconds", [0])
    flow(until="corpus")
    assert work.calls == ["corpus"] * 3


def test_a_source_that_is_away_as_the_run_begins_is_tried_again_too(
    work: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def resolve(*_: Any) -> str:
        asked.append(1)
        if len(asked) < 4:
            raise Unreachable("the hub does not answer")
        return "v1"

    monkeypatch.setattr(work, "resolve", resolve, raising=False)
    monkeypatch.setitem(STAGES, "corpus", replace(STAGES["corpus"], resolve="work:resolve"))
    monkeypatch.setattr(work, "corpus", lambda workspace, source, **_: work.enter(workspace, "corpus"))
    monkeypatch.setattr(corpus, "retry_delay_seconds", [0])
    run(Session(load_experiment(TINY, FAST)), TINY, FAST, until="corpus")
    assert work.calls == ["corpus"]
    assert len(asked) > 3


def test_waiting_for_the_network_takes_longer_each_time() -> None:
    assert corpus.retry_delay_seconds == [2, 4, 8]
    assert corpus.retry_jitter_factor


def test_a_users_mistake_ends_the_run_at_once_and_without_a_traceback(
    work: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise UserError("corpus: no stories; give a source that has some")

    work.on_call["corpus"] = refuse
    with pytest.raises(UserError, match="no stories"):
        run(Session(load_experiment(TINY, FAST)), TINY, FAST)
    assert work.calls == ["corpus"]
    assert "Beginning flow run" in caplog.text
    assert "Traceback" not in caplog.text
    assert "no stories" not in caplog.text


def test_the_terminal_has_one_format_and_of_prefect_its_warnings_alone(
    work: ModuleType, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_once() -> None:
        if work.calls.count("corpus") < 2:
            raise ConnectionResetError("peer")

    work.on_call["corpus"] = fail_once
    monkeypatch.setattr(corpus, "retry_delay_seconds", [0])
    with logging_to_stderr():
        run(Session(load_experiment(TINY, FAST)), TINY, FAST, until="corpus")
    lines = [line for line in capfd.readouterr().err.splitlines() if line[:1].isdigit()]
    assert all(re.match(r"\d\d:\d\d:\d\d (INFO|WARNING|ERROR) ", line) for line in lines)
    assert [line for line in lines if "corpus: built" in line]
    assert [line for line in lines if "ConnectionResetError('peer') - Retry 1/3 will start" in line]
    assert not [line for line in lines if "Beginning flow run" in line or "Finished in state" in line]


def test_a_failure_in_the_terminal_is_a_line_and_no_traceback(
    work: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise FloatingPointError("overflow")

    work.on_call["corpus"] = fail
    with logging_to_stderr(), pytest.raises(FloatingPointError):
        run(Session(load_experiment(TINY, FAST)), TINY, FAST, until="corpus")
    said = capfd.readouterr().err
    assert [line for line in said.splitlines() if "ERROR" in line and "overflow" in line]
    assert "Traceback" not in said


def test_one_failed_stage_of_three_fails_the_run_and_keeps_the_others(work: ModuleType) -> None:
    def fail() -> None:
        raise FloatingPointError("overflow")

    work.on_call["evaluate"] = fail
    with pytest.raises(FloatingPointError, match="overflow"):
        flow()
    del work.on_call["evaluate"]
    assert states(flow()) == {**ALL_CACHED, "evaluate": "Completed", "publish": "Completed"}


def test_the_run_shows_its_summary_its_scores_and_its_pictures(work: ModuleType) -> None:
    chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow()]))
    with get_client(sync_client=True) as client:
        shown = {item.key: item for item in client.read_artifacts(artifact_filter=chosen)}
    assert {key: item.type for key, item in shown.items()} == {
        "tiny-training": "progress",
        "tiny-summary": "markdown",
        "tiny-scores": "table",
        "tiny-denoising": "markdown",
    }
    assert "Bits per byte" in shown["tiny-summary"].data
    table = json.loads(shown["tiny-scores"].data)
    assert {"score": "evaluation/bits_per_byte", "value": 1.5} in table
    assert shown["tiny-training"].data == 100
    assert "denoising.gif" in shown["tiny-denoising"].data
