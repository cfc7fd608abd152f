"""`ddlm registry` on a real store."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner, Result

from ddlm.cli import app, explain
from ddlm.config import UserError
from ddlm.tracking.mlflow_client import artifact_root, connect
from ddlm.tracking.mlflow_runs import MlflowRuns
from ddlm.tracking.registry import Registry


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrated: Path) -> MlflowClient:
    monkeypatch.setenv("DDLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "home").mkdir()
    shutil.copy(migrated, tmp_path / "home" / "mlflow.db")
    return connect(f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}")


@pytest.fixture
def registry(client: MlflowClient, tmp_path: Path) -> Registry:
    """Three versions; the first one was champion, the second one is."""
    from mlflow.models import Model

    run = client.create_run(client.create_experiment("tale", f"{artifact_root()}/tale")).info.run_id
    (tmp_path / "model").mkdir()
    Model().save(tmp_path / "model" / "MLmodel")
    runs = MlflowRuns(None)
    runs.open()
    made = Registry(runs, "ddlm-tale")
    for score in (2.0, 1.5, 1.75):
        tags = {
            "bits_per_byte": str(score),
            "data_digest": "0123456789abcdef",
            "bits_per_byte_interval": "[1.25, 2.25]",
        }
        version = made.add(run, tmp_path / "model", tags)
        made.describe(version, f"because of {score}")
        if score != 1.75:
            made.crown(version)
    return made


@pytest.fixture
def ddlm(client: MlflowClient) -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(app, ["registry", *arguments], catch_exceptions=False)


def test_the_list_shows_each_version_with_what_it_was_judged_by(
    registry: Registry, ddlm: Callable[..., Result]
) -> None:
    shown = ddlm("list", "tale").stdout
    lines = [line for line in shown.splitlines() if "because of" in line]
    assert len(lines) == 3
    assert [line.split("│")[1].strip() for line in lines] == ["3", "2", "1"]
    for part in ("champion", "1.500 (1.250 to 2.250)", "0123456789ab ", "because of 1.5"):
        assert part in lines[1]


def test_the_list_as_json_is_one_document(registry: Registry, ddlm: Callable[..., Result]) -> None:
    (rows,) = json.loads(ddlm("list", "--json").stdout).values()
    assert [row["version"] for row in rows] == ["3", "2", "1"]
    assert rows[1]["aliases"] == ["champion"]
    assert rows[1]["bits_per_byte_interval"] == [1.25, 2.25]


def test_an_empty_registry_says_what_fills_it(ddlm: Callable[..., Result]) -> None:
    assert ddlm("list").stdout == "no model is registered yet; a whole ddlm run registers one\n"


def test_a_promotion_by_hand_can_be_taken_back_step_by_step(registry: Registry, ddlm: Callable[..., Result]) -> None:
    assert ddlm("promote", "ddlm-tale", "3").stdout == "ddlm-tale version 3 is champion\n"
    assert registry.champions() == ["1", "2", "3"]
    assert ddlm("rollback", "ddlm-tale").stdout == "ddlm-tale version 2 is champion again\n"
    assert ddlm("rollback", "tale").stdout == "ddlm-tale version 1 is champion again\n"
    with pytest.raises(UserError, match="no earlier champion of ddlm-tale is known; choose one: ddlm registry promote"):
        ddlm("rollback", "tale")


def test_a_promotion_by_hand_is_noted_once_behind_the_reason(registry: Registry, ddlm: Callable[..., Result]) -> None:
    for _ in range(2):
        ddlm("promote", "tale", "3")
    assert registry.versions()[-1].reason == "because of 1.75; made champion by hand"


def test_a_champion_that_was_deleted_is_passed_over(
    registry: Registry, client: MlflowClient, ddlm: Callable[..., Result]
) -> None:
    ddlm("promote", "tale", "3")
    client.delete_model_version("ddlm-tale", "2")
    assert ddlm("rollback", "tale").stdout == "ddlm-tale version 1 is champion again\n"


def test_a_champion_that_was_chosen_in_mlflow_is_remembered(
    registry: Registry, client: MlflowClient, ddlm: Callable[..., Result]
) -> None:
    client.set_registered_model_alias("ddlm-tale", "champion", "3")
    ddlm("promote", "tale", "1")
    assert ddlm("rollback", "tale").stdout == "ddlm-tale version 3 is champion again\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("list", "other"), "registry: no model other in sqlite:.*; it has ddlm-tale"),
        (("promote", "tale", "7"), "registry: ddlm-tale has no version 7; it has 1, 2, 3"),
        (("list", "--uri", "nonsense://x"), "not an address that MLflow knows"),
    ],
)
def test_what_does_not_exist_is_one_line(
    registry: Registry, ddlm: Callable[..., Result], arguments: tuple[str, ...], line: str
) -> None:
    with pytest.raises(UserError, match=line) as raised:
        ddlm(*arguments)
    assert explain(raised.value)[1] == 2
