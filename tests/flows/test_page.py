"""What a run's page shows while it goes on, and what runs are called."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings

from ddlm.artifacts import Unlogged
from ddlm.experiment import load_experiment
from ddlm.experiment.stages import Session
from ddlm.tracking.provenance import origin
from flows import names
from flows.names import run_name
from tasks import page
from tasks.page import TrainingBar

TINY = str(Path(__file__).parents[2] / "configs" / "tiny.toml")


def session(name: str) -> Session:
    return Session(load_experiment(TINY, {"tracking.backend": "none", "name": name}))


def shown(key: str) -> list[tuple[float, str]]:
    """How far each bar of this key has come, and what stands beside it."""
    with get_client(sync_client=True) as client:
        chosen = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        return [(item.data, item.description) for item in client.read_artifacts(artifact_filter=chosen)]


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.usefixtures("server")
def test_the_bar_moves_with_the_steps_and_is_full_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "SEND_EVERY_S", 0.05)

    @flow
    def train() -> None:
        with TrainingBar(session("moving")) as bar:
            log = bar.watch(Unlogged())
            log.log({"train/nll_nats": 5.0}, 3)
            wait_for(lambda: shown("moving-training") == [(25, "step 3 of 12, 5.000 nats a token")])
            log.log({"train/nll_nats": 4.0, "val/nll_nats": 4.5}, 6)
            wait_for(lambda: shown("moving-training") == [(50, "step 6 of 12, 4.500 nats a token")])

    train()
    assert [percent for percent, _ in shown("moving-training")] == [100]


@pytest.mark.usefixtures("server")
def test_the_bar_of_a_training_that_broke_stays_where_it_was() -> None:
    @flow
    def train() -> None:
        with TrainingBar(session("broken")) as bar:
            bar.watch(Unlogged()).log({}, 9)
            raise FloatingPointError("overflow")

    with pytest.raises(FloatingPointError):
        train()
    assert shown("broken-training") == [(75, "step 9 of 12")]


@pytest.mark.usefixtures("server")
def test_a_training_that_is_cached_has_no_bar() -> None:
    with TrainingBar(session("cached")):
        pass
    assert shown("cached-training") == []


@pytest.mark.filterwarnings("ignore:Artifact creation outside")
def test_a_server_that_is_away_costs_the_bar_and_nothing_else() -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        started = time.monotonic()
        with TrainingBar(session("alone")) as bar:
            bar.watch(Unlogged()).log({}, 3)
        assert time.monotonic() - started < page.LAST_WORDS_S + 1


@pytest.mark.parametrize(
    ("parameters", "about"),
    [
        ({"experiment": TINY, "overrides": {"name": "own"}, "until": None}, "own"),
        ({"experiment": TINY, "overrides": None}, "tiny"),
        ({"experiment": "nosuch.toml", "overrides": None}, "nosuch.toml"),
        ({"model": "ddlm-tiny@champion", "overrides": None}, "ddlm-tiny@champion"),
        ({"experiment": "tiny", "name": None, "run_ids": None}, "tiny"),
        ({"experiment": None, "name": None, "run_ids": ["a"]}, "runs"),
    ],
)
def test_a_run_is_named_by_what_it_is_about(parameters: dict[str, Any], about: str) -> None:
    assert names.subject(parameters) == about


@pytest.mark.parametrize(
    ("name", "flow_name", "overrides"),
    [
        ("tiny", "full-pipeline", None),
        ("retrain tiny", "retrain", {}),
        ("own", "full-pipeline", {"name": "own"}),
        ("tiny uri=http://***@host", "full-pipeline", {"tracking.uri": "http://me:secret@host"}),
        ("tiny seed=2 learning_rate=0.01", "full-pipeline", {"training.learning_rate": 0.01, "seed": 2}),
        (
            "tiny log_every_steps=5 save_every_steps=5 steps=9 …",
            "full-pipeline",
            {
                "training.steps": 9,
                "training.save_every_steps": 5,
                "training.log_every_steps": 5,
                "training.validate_every_steps": 5,
            },
        ),
    ],
)
def test_runs_of_other_settings_or_flows_have_other_names(
    name: str, flow_name: str, overrides: dict[str, Any] | None
) -> None:
    assert names.title(flow_name, {"experiment": TINY, "overrides": overrides}) == name


@pytest.mark.usefixtures("server")
def test_a_run_is_named_by_the_commit_too_and_a_name_that_was_given_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    @flow(flow_run_name=run_name)
    def one(experiment: str = "any", name: str | None = None) -> str:
        return str(flow_run.name)

    monkeypatch.setattr(names, "origin", lambda: {"git.commit": "0123456789", "git.dirty": "true"})
    assert one() == "one any at 0123456+"
    monkeypatch.setattr(names, "origin", dict)
    assert one() == "one any at no commit"
    monkeypatch.undo()
    commit = origin().get("git.commit", "no commit")
    assert f"one any at {commit[:7]}" in one()
    assert names.OURS.fullmatch(one())
    assert not names.OURS.fullmatch("nightly run 7")
