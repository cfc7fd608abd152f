"""What flows tell Prefect's server, and that a training may start from the champion."""

import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from ddlm.experiment import load_experiment
from ddlm.experiment.view import Summary
from flows.full_pipeline import full_pipeline
from flows.retrain import retrain
from tasks import champion as champion_task
from tasks.events import tell_of_champion

TINY = str(Path(__file__).parents[2] / "configs" / "tiny.toml")
FAST = {"tracking.backend": "none"}


def publication(version: str, champion: str, decision: str) -> tuple[str, str]:
    document = {
        "registered": True, "model": "ddlm-tiny", "version": version, "decision": decision,
        "aliases": {"challenger": version, "champion": champion}, "reason": f"version {champion} is better",
    }  # fmt: skip
    return "publication.json", json.dumps(document)


def events(since: float, *, wanted: int) -> list[dict[str, Any]]:
    """Ours since a moment, oldest first. They take a moment to arrive; where none is wanted, a few seconds."""
    url = f"{get_current_settings().api.url}/events/filter"
    chosen = {"filter": {"event": {"prefix": ["ddlm."]}}, "limit": 50}
    deadline = time.monotonic() + (30 if wanted else 4)
    while True:
        found = [each for each in httpx.post(url, json=chosen).json()["events"] if moment(each) > since]
        if (wanted and len(found) >= wanted) or time.monotonic() > deadline:
            return sorted(found, key=moment)
        time.sleep(0.2)


def moment(event: dict[str, Any]) -> float:
    from datetime import datetime

    return datetime.fromisoformat(event["occurred"]).timestamp()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(("champion", "decision"), [("2", "promoted"), ("1", "kept")])
def test_a_verdict_on_the_champion_is_an_event_with_the_reason(work: ModuleType, champion: str, decision: str) -> None:
    work.products["publish"] = publication("2", champion, decision)
    since = time.time()
    retrain(TINY, FAST)
    (event,) = events(since, wanted=1)
    assert event["event"] == f"ddlm.champion.{decision}"
    assert event["resource"]["prefect.resource.id"] == "ddlm.model.tiny"
    assert event["payload"]["reason"] == f"version {champion} is better"


@pytest.mark.usefixtures("server")
def test_the_same_champion_again_is_no_event_and_neither_is_a_cached_verdict(work: ModuleType) -> None:
    work.products["publish"] = publication("1", "1", "kept")
    full_pipeline(TINY, FAST, until="corpus")
    since = time.time()
    work.products["corpus"] = ("made.json", "other stories")  # which it trains on itself: nobody else should
    retrain(TINY, FAST)
    work.products["publish"] = publication("2", "1", "kept")
    retrain(TINY, FAST)
    assert events(since, wanted=0) == []


@pytest.mark.usefixtures("server")
def test_new_stories_are_told_of_once_with_what_to_retrain(work: ModuleType) -> None:
    since = time.time()
    full_pipeline(TINY, FAST, until="corpus")
    full_pipeline(TINY, FAST, until="corpus", force=["corpus"])
    work.products["corpus"] = ("made.json", "other stories")
    full_pipeline(TINY, FAST, until="corpus", force=["corpus"])
    first, second = events(since, wanted=2)
    assert {first["resource"]["prefect.resource.id"], second["resource"]["prefect.resource.id"]} == {"ddlm.corpus.tiny"}
    assert first["payload"]["digest"] != second["payload"]["digest"]
    assert first["payload"]["experiment"] == TINY
    assert first["payload"]["overrides"] == FAST


def test_without_a_server_nothing_is_told_and_nothing_fails(tmp_path: Path) -> None:
    name, text = publication("2", "1", "kept")
    (tmp_path / name).write_text(text)
    summary = Summary("tiny", tmp_path, {}, {}, [], "", {"publish": "built"}, "")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert tell_of_champion(summary) is summary


def test_without_a_champion_training_starts_from_scratch_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert champion_task.champion.fn(load_experiment(TINY, FAST)) == {}
    assert "ddlm-tiny has no champion yet: training starts from scratch" in caplog.text


def test_a_champion_gives_its_weights_and_its_vocabulary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(champion_task, "weights_of_champion", lambda name, uri: tmp_path / name)
    weights = str(tmp_path / "tiny")
    assert champion_task.champion.fn(load_experiment(TINY)) == {
        "training.init_from": weights,
        "tokenizer.pretrained": weights,
    }
    own = champion_task.champion.fn(load_experiment(TINY, {"tokenizer.pretrained": "mine"}))
    assert own == {"training.init_from": weights, "tokenizer.pretrained": "mine"}
