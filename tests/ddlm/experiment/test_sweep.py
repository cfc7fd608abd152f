"""Sweeps: what they try, how they go on, what they leave behind."""

import csv
import json
import sys
import threading
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from ddlm.artifacts import Artifact
from ddlm.config import UserError
from ddlm.experiment import load_experiment
from ddlm.experiment.sweep import Outcome, Sweep
from ddlm.experiment.trials import Plan, Range, Result, Study

TINY = str(Path(__file__).parents[3] / "configs" / "tiny.toml")
UNTRACKED = {"tracking.backend": "none"}
RATES: dict[str, list[Any]] = {"training.learning_rate": [1e-3, 1e-2]}
SPACE = {
    "training.learning_rate": Range(low=1e-4, high=1e-2, log=True),
    "model.num_layers": Range(choices=[1, 2]),
    "training.warmup_steps": Range(low=0, high=3),
}


@pytest.fixture
def shared(home: Path, tiny_artifacts: Mapping[str, Artifact]) -> Path:
    """A home folder whose store has the tiny experiment's first stages and its training."""
    for artifact in tiny_artifacts.values():
        place = home / "artifacts" / artifact.stage
        place.mkdir(parents=True)
        (place / artifact.key).symlink_to(artifact.path)
    return home


def plan(overrides: Mapping[str, Any] = UNTRACKED, **given: Any) -> Plan:
    return Plan(TINY, overrides, **{"metric": "val/bits_per_byte", **given})


def swept(planned: Plan) -> Outcome:
    with Sweep(planned) as sweep:
        for trial in sweep:
            sweep.try_out(trial)
        return sweep.finish()


def try_one_and_die(planned: Plan) -> None:
    with Sweep(planned) as sweep:
        sweep.try_out(next(iter(sweep)))
        raise KeyboardInterrupt


def trained(home: Path) -> int:
    return len(list(home.glob("artifacts/train/*")))


def runs_of(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name("tiny")
    assert experiment
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]))


def test_a_grid_leaves_its_best_configuration_and_a_table(shared: Path) -> None:
    outcome = swept(plan(grid=RATES, name="rates"))
    assert outcome.folder == shared / "sweeps" / "rates"
    table = list(csv.DictReader((outcome.folder / "trials.csv").read_text().splitlines()))
    values = {float(line["training.learning_rate"]): float(line["val/bits_per_byte"]) for line in table}
    best = min(values, key=lambda rate: values[rate])
    document = tomllib.loads((outcome.folder / "best.toml").read_text())
    assert document["training"]["learning_rate"] == best == outcome.best.choice["training.learning_rate"]
    assert load_experiment(outcome.folder / "best.toml") == load_experiment(TINY, {**UNTRACKED, **outcome.best.choice})


def test_trials_share_what_they_have_in_common(shared: Path) -> None:
    swept(plan(grid=RATES))
    assert trained(shared) == 2  # the rate of the config itself was trained before
    for stage in ("corpus", "tokenizer", "shards"):
        assert len(list((shared / "artifacts" / stage).iterdir())) == 1


def test_maximising_takes_the_other_end(shared: Path) -> None:
    outcome = swept(plan(grid=RATES, direction="maximize"))
    values = [result.value for result in outcome.results]
    assert outcome.best.value == max(value for value in values if value is not None)


def test_each_trial_is_a_run_below_the_sweep_with_its_values_and_its_metric(shared: Path, client: MlflowClient) -> None:
    outcome = swept(plan({}, grid=RATES, name="rates"))
    parent, *trials = runs_of(client)
    assert [run.data.params for run in trials] == [{"training.learning_rate": str(rate)} for rate in (0.001, 0.01)]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert [run.data.metrics["val/bits_per_byte"] for run in trials] == [result.value for result in outcome.results]
    assert parent.data.metrics["best/val/bits_per_byte"] == outcome.best.value
    for run in trials:  # one was trained here, the other was cached
        history = client.get_metric_history(run.info.run_id, "train/nll_nats")
        assert sorted({point.step for point in history}) == [2, 4, 6, 8, 10, 12]


def test_a_killed_sweep_goes_on_in_the_same_runs_and_trains_nothing_twice(shared: Path, client: MlflowClient) -> None:
    planned = plan({}, grid={"training.learning_rate": [2e-3, 3e-3]})
    with pytest.raises(KeyboardInterrupt):
        try_one_and_die(planned)
    times = {path: path.stat().st_mtime for path in shared.glob("artifacts/train/*")}
    outcome = swept(planned)
    assert [result.state for result in outcome.results] == ["complete", "complete"]
    assert {path: path.stat().st_mtime for path in times} == times
    assert trained(shared) == 3
    assert len(runs_of(client)) == 3
    assert {run.info.status for run in runs_of(client)} == {"FINISHED"}


def test_a_trial_that_can_not_run_leaves_the_sweep_going(shared: Path) -> None:
    outcome = swept(plan(grid={"training.batch_size": [2**20, 8]}))
    assert [result.state for result in outcome.results] == ["failed", "complete"]
    assert "training.batch_size 1048576: the training data has" in outcome.table()[0]["reason"]
    assert outcome.best.choice == {"training.batch_size": 8}


def test_without_a_complete_trial_the_reason_is_said(shared: Path) -> None:
    with pytest.raises(UserError, match=r"sweep big: no trial was completed: training\.batch_size 1048576: "):
        swept(plan(grid={"training.batch_size": [2**20]}, name="big"))


@dataclass
class Hopeless:
    """A trial whose validation is never good enough."""

    number: int = 0
    choice: Mapping[str, Any] = field(default_factory=lambda: {"training.learning_rate": 5e-3})
    asked: list[tuple[float, int]] = field(default_factory=list)

    def is_hopeless(self, value: float, step: int) -> bool:
        self.asked.append((value, step))
        return True


def test_a_hopeless_training_is_stopped_at_its_first_validation(shared: Path) -> None:
    trial = Hopeless()
    with Sweep(plan(grid={"training.learning_rate": [5e-3]})) as sweep:
        assert sweep.try_out(trial).state == "pruned"
    assert [step for _, step in trial.asked] == [6]
    assert trained(shared) == 1


def study(folder: Path, trials: int = 6, space: Mapping[str, Range] = SPACE) -> Study:
    return Study(space, trials, "minimize", True, 1, folder)


def asked_for(source: Study, most: int = 100) -> list[Mapping[str, Any]]:
    """What a study asks, told always that the value is the learning rate."""
    choices: list[Mapping[str, Any]] = []
    for trial in source:
        choices.append(trial.choice)
        source.tell(Result(trial.number, trial.choice, "complete", trial.choice["training.learning_rate"]))
        if len(choices) == most:
            break
    return choices


def test_a_study_that_was_killed_asks_what_it_would_have_asked(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    expected = asked_for(study(whole, trials=14))
    first = asked_for(study(killed, trials=14), most=11)
    unfinished = next(iter(study(killed, trials=14)))
    rest = asked_for(study(killed, trials=14))
    assert unfinished.choice == rest[0]
    assert [*first, *rest] == expected
    assert len({str(choice) for choice in expected}) == 14


def test_a_study_prunes_what_is_worse_than_the_median_of_the_earlier_trials(tmp_path: Path) -> None:
    source = study(tmp_path)
    values = iter([1.0, 2.0, 3.0, 2.5, 1.5])
    hopeless = []
    for trial, value in zip(source, values, strict=False):
        hopeless.append(trial.is_hopeless(value, 6))
        end = Result(trial.number, trial.choice, "pruned") if hopeless[-1] else None
        source.tell(end or Result(trial.number, trial.choice, "complete", value))
    assert hopeless == [False, False, False, True, False]


def test_a_study_keeps_to_its_ranges_and_counts_failures_once(tmp_path: Path) -> None:
    source = study(tmp_path, trials=8)
    for trial in source:
        failed = trial.number == 2
        value = None if failed else 1.0
        source.tell(Result(trial.number, trial.choice, "failed" if failed else "complete", value, "too big" * failed))
    found = study(tmp_path, trials=8).finished()
    assert [result.state for result in found].count("failed") == 1
    assert found[2].reason == "too big"
    assert len(found) == 8
    for result in found:
        assert 1e-4 <= result.choice["training.learning_rate"] <= 1e-2
        assert result.choice["model.num_layers"] in (1, 2)
        assert result.choice["training.warmup_steps"] in range(4)


def test_a_sweep_by_a_study_trains_and_is_complete_when_it_is_run_again(shared: Path) -> None:
    planned = plan(study={"training.learning_rate": Range(low=1e-3, high=1e-2)}, trials=2, name="study")
    first = swept(planned)
    assert [result.state for result in first.results] == ["complete", "complete"]
    before = trained(shared)
    assert swept(planned).results == [
        Result(each.number, each.choice, each.state, each.value) for each in first.results
    ]
    assert trained(shared) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"grid": {"training.lr": [1]}}, r"unknown key training\.lr; allowed here: .*learning_rate"),
        ({"grid": {"training.learning_rate": [1e-3, "fast"]}}, r"training\.learning_rate: .*'fast'"),
        ({"study": {"training.lr": Range(low=1, high=2)}}, r"unknown key training\.lr"),
        ({"study": {"model.num_layers": Range(low=0.5, high=4)}}, r"model\.num_layers: .*0\.5"),
        ({"grid": {}}, "sweep: the grid or study has no values to try; write"),
        ({"study": {}}, "sweep: the grid or study has no values to try; write"),
        ({"grid": {"seed": [1], "training.learning_rate": []}}, r"sweep: training\.learning_rate has no values to try"),
        ({}, "sweep: got neither; give either a grid or a study"),
        ({"grid": RATES, "study": SPACE}, "sweep: got both; give either a grid or a study"),
        ({"grid": RATES, "name": "../rates"}, r"name '\.\./rates': wanted letters, digits"),
        ({"grid": RATES, "metric": "loss"}, r"sweep: metric 'loss'; wanted evaluation/… or one of val/bits_per_byte"),
    ],
)
def test_a_plan_that_can_not_work_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        plan(**given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "fields",
    [{}, {"low": 1}, {"low": 1, "high": 2, "choices": [1]}, {"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}],
)
def test_a_range_is_two_numbers_or_some_choices(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wanted low"):
        Range(**fields)


def test_the_name_of_another_sweep_is_refused(home: Path) -> None:
    with Sweep(plan(grid=RATES, name="mine")):
        pass
    with pytest.raises(UserError, match="sweep mine: has run with other values or settings; give it another name"):
        swept(plan(grid={"seed": [1, 2]}, name="mine"))


def test_a_second_sweep_of_a_name_waits_and_finds_the_trials_of_the_first(shared: Path) -> None:
    planned = plan(study={"training.learning_rate": Range(low=1e-3, high=1e-2)}, trials=2, name="mine")
    second: list[Outcome] = []
    waits = threading.Thread(target=lambda: second.append(swept(planned)))
    with Sweep(planned) as first:
        trials = iter(first)
        first.try_out(next(trials))
        waits.start()
        waits.join(1)
        assert waits.is_alive()
        for trial in trials:
            first.try_out(trial)
    waits.join(60)
    (outcome,) = second
    assert [result.number for result in outcome.results] == [0, 1]
    assert trained(shared) == 1 + 2


def test_without_a_name_other_values_are_another_sweep(home: Path) -> None:
    names: Sequence[str] = [Sweep(plan(grid={"seed": seeds})).name for seeds in ([1, 2], [1, 3], [1, 2])]
    assert names[0] == names[2] != names[1]
    assert names[0].startswith("tiny-")


def test_a_study_without_optuna_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"Optuna, which is not installed; run .*\[sweep\]'?, or"):
        study(tmp_path)


def test_a_metric_that_was_not_measured_names_those_that_were(shared: Path) -> None:
    small = {
        "evaluation.num_samples": 2, "evaluation.num_continuations": 1, "evaluation.chain_rule_stories": 0,
        "evaluation.num_infills": 0, "sampling.num_sampling_steps": 2,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"evaluation/loss was not measured; wanted one of .*evaluation/bits_per_byte"):
        swept(plan({**UNTRACKED, **small}, grid={"training.learning_rate": [1e-3]}, metric="evaluation/loss"))
    outcome = swept(plan({**UNTRACKED, **small}, grid={"seed": [1]}, metric="evaluation/bits_per_byte"))
    (scores,) = shared.glob("artifacts/evaluate/*/scores.json")
    assert outcome.best.value == json.loads(scores.read_text())["bits_per_byte"]


def test_optuna_s_database_lies_with_the_sweep(shared: Path) -> None:
    with Sweep(plan(study=SPACE, name="mine")) as sweep:
        next(iter(sweep))
    (found,) = optuna.load_study(study_name="sweep", storage=f"sqlite:///{shared}/sweeps/mine/study.db").trials
    assert found.state.name == "RUNNING"
