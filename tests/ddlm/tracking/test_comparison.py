"""Comparing runs of a real MLflow store: what is ranked together, and what is told apart."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ddlm.config import UserError
from ddlm.experiment.compare import Comparison, compare_runs
from ddlm.tracking.backends import NewRun, Row, now_ms
from ddlm.tracking.comparison import Choice, standard_name
from ddlm.tracking.mlflow_runs import MlflowRuns

Add = Callable[..., str]


@pytest.fixture
def add(stored_home: Path) -> Add:
    """Adds a finished run with a score, by default on the text `a`; its id."""
    runs = MlflowRuns(None)
    runs.open()

    def add_run(
        value: float | None,
        data: str = "a" * 64,
        params: Mapping[str, str] | None = None,
        *,
        curve: Mapping[int, float] | None = None,
        tags: Mapping[str, str] | None = None,
        parent: str | None = None,
        metric: str = "bits_per_byte",
        experiment: str = "tale",
    ) -> str:
        about = {**({"data_digest": data} if data else {}), **(tags or {})}
        run = runs.start(NewRun(experiment, "run", parent, params or {}, about, now_ms()))
        rows = [Row(metric, value, 0, now_ms())] if value is not None else []
        rows += [Row("val/bits_per_byte", bits, step, now_ms()) for step, bits in (curve or {}).items()]
        runs.metrics(run, rows)
        runs.end(run, "FINISHED", now_ms())
        return run

    return add_run


def ranks(made: Comparison) -> dict[str, tuple[str, int | None]]:
    """Text and rank by run."""
    return {row["id"]: (row["text"], row["rank"]) for row in made.rows}


def test_runs_on_different_texts_are_never_ranked_together(add: Add) -> None:
    good, better, elsewhere, nowhere = add(2.0), add(1.5), add(1.0, "b" * 64), add(0.5, "")
    made = compare_runs(Choice("tale"))
    first, second = "a" * 12, "b" * 12
    assert ranks(made) == {better: (first, 1), good: (first, 2), elsewhere: (second, 1), nowhere: ("unknown", None)}
    parts = made.markdown().split("Measured on the text")
    assert [[run for run in (nowhere, better, good, elsewhere) if run in part] for part in parts] == [
        [nowhere],
        [better, good],
        [elsewhere],
    ]
    assert "Not ranked, since their text is unknown" in parts[0]
    assert [path.name for path in made.pictures] == [f"scores-{first}.png", f"scores-{second}.png"]


def test_only_parameters_that_differ_are_shown(add: Add) -> None:
    add(2.0, params={"seed": "1", "model.d_model": "32", "name": "x"})
    add(1.5, params={"seed": "2", "model.d_model": "32"})
    (first, second) = compare_runs(Choice("tale")).rows
    assert {name: first[name] for name in first if name in ("seed", "model.d_model", "name")} == {"seed": "2"}
    assert second["seed"] == "1"


def test_a_stage_s_names_of_scores_are_those_of_its_run(add: Add) -> None:
    run = add(1.5, metric="evaluation/bits_per_byte", tags={"ddlm.trial": "3"})
    assert compare_runs(Choice("tale")).rows[0]["bits_per_byte"] == 1.5
    assert ranks(compare_runs(Choice("tale")))[run][1] == 1
    assert standard_name("evaluation/seed_protocols/S3/loss") == "seed_protocols.S3.loss"
    assert standard_name("val/bits_per_byte") == "val/bits_per_byte"


def test_the_curve_may_lie_in_the_stage_below(add: Add) -> None:
    run = add(1.5)
    add(None, curve={6: 2.5, 12: 2.0}, tags={"ddlm.stage": "train"}, parent=run)
    made = compare_runs(Choice("tale"))
    assert len(made.rows) == 1
    assert {path.name for path in made.pictures} == {f"curves-{'a' * 12}.png", f"scores-{'a' * 12}.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made.pictures)


def test_without_a_curve_there_is_no_picture_of_one(add: Add) -> None:
    add(1.5)
    assert [path.name for path in compare_runs(Choice("tale")).pictures] == [f"scores-{'a' * 12}.png"]


def test_runs_are_chosen_by_id_and_by_filter(add: Add) -> None:
    one, two, three = add(1.0), add(2.0, tags={"mark": "x"}), add(3.0, experiment="other", tags={"mark": "x"})
    assert set(ranks(compare_runs(Choice(run_ids=(one, three))))) == {one, three}
    assert set(ranks(compare_runs(Choice(filter="tags.mark = 'x'")))) == {two, three}
    assert set(ranks(compare_runs(Choice("tale", filter="tags.mark = 'x'")))) == {two}


def test_the_table_is_kept_as_csv_and_markdown(add: Add, stored_home: Path) -> None:
    run = add(1.5)
    made = compare_runs(Choice("tale"), name="week")
    assert made.folder == stored_home / "comparisons" / "week"
    header, line = (made.folder / "comparison.csv").read_text().splitlines()
    assert header == "text,rank,run,id,bits_per_byte"
    assert line == f"{'a' * 12},1,run,{run},1.5"
    assert f"| 1 | run | {run} | 1.5000 |" in (made.folder / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice("nosuch"), "compare: no runs found for experiment 'nosuch' in sqlite:.*; known: tale"),
        (Choice(filter="tags.mark = 'y'"), "compare: no runs found for filter .*; known: tale"),
        (Choice(filter="tags.mark ~ 3"), "compare: filter 'tags.mark ~ 3': MLflow at .*; mend the ids or the filter"),
        (Choice(run_ids=("nosuch",)), "compare: run_ids 'nosuch': MLflow at .*nosuch.* not found; mend the ids"),
    ],
)
def test_what_finds_nothing_is_one_line(add: Add, choice: Choice, message: str) -> None:
    add(1.0)
    with pytest.raises(UserError, match=message) as refused:
        compare_runs(choice)
    assert "\n" not in str(refused.value)


def test_a_name_that_leads_elsewhere_is_refused(add: Add) -> None:
    add(1.0)
    with pytest.raises(UserError, match=r"name '\.\./week': wanted letters, digits"):
        compare_runs(Choice("tale"), name="../week")
