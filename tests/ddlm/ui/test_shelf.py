"""Which models the page offers, and that it opens no others."""

import json
import logging
import shutil
import time

import pytest
from mlflow.models import Model

from ddlm.artifacts import check, open_store
from ddlm.config import UserError, home
from ddlm.model.registered import has_registry
from ddlm.tracking.mlflow_runs import MlflowRuns
from ddlm.tracking.registry import Registry
from ddlm.ui import shelf as shelves
from ddlm.ui.shelf import Shelf


@pytest.fixture
def experiments(tiny_model):
    for name in ("owl", "fox"):
        shutil.copytree(tiny_model, home() / name / "model")
    shutil.copytree(tiny_model, home() / ".views" / "model")
    (home() / "empty").mkdir()


@pytest.fixture
def published(tiny_model, migrated, tmp_path):
    """Two versions of a registered model, the second with an alias; and somebody else's model."""
    home().mkdir(parents=True, exist_ok=True)
    shutil.copy(migrated, home() / "mlflow.db")
    runs = MlflowRuns(None)
    runs.open()
    run = runs.client.create_run(runs.client.create_experiment("hare", (home() / "mlartifacts").as_uri()))
    folder = tmp_path / "mlflow-model"
    shutil.copytree(tiny_model, folder / "artifacts" / "model")
    Model().save(folder / "MLmodel")
    for name in ("ddlm-hare", "ddlm-hare", "somebody-elses"):
        version = Registry(runs, name).add(run.info.run_id, folder, {"digest.train": check(tiny_model, verify=True)})
        Registry(runs, name).point("champion", version)


def test_the_list_is_the_first_model_and_every_experiment_that_has_one(experiments, tiny_model):
    assert Shelf(str(tiny_model)).names() == [tiny_model.name, "fox", "owl"]
    assert Shelf("owl").names() == ["owl", "fox"]


def test_where_a_folder_lies_on_this_machine_is_nobodys_business(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "hen" / "model")
    shelf = Shelf(str(tmp_path / "hen" / "model"), "float32")
    assert shelf.names() == ["hen"]
    assert shelf.open("hen").pipeline.seq_len == 64
    assert Shelf(str(tmp_path / "hen" / "model" / "..") + "/model").names() == ["hen"]
    (tmp_path / "owl").symlink_to(tmp_path / "hen")  # as an experiment's folder leads to one that a digest names
    assert Shelf(str(tmp_path / "owl")).names() == ["owl"]


def test_an_experiment_that_ran_again_is_the_new_one(experiments, tiny_model, tmp_path):
    shelf = Shelf("owl", "float32")
    before = shelf.open("owl")
    (home() / "owl").rename(tmp_path / "old")
    shutil.copytree(tiny_model, tmp_path / "new" / "model")
    (home() / "owl").symlink_to(tmp_path / "new")
    assert shelf.open("owl") is not before


def test_a_model_is_loaded_once_and_shared(experiments):
    shelf = Shelf("owl", "float32")
    assert shelf.open("fox") is shelf.open("fox")
    assert shelf.open("fox") is not shelf.open("owl")


def test_an_experiment_that_came_later_is_offered_too(experiments, tiny_model):
    shelf = Shelf("owl", "float32")
    shutil.copytree(tiny_model, home() / "hen" / "model")
    assert "hen" in shelf.names()
    assert shelf.open("hen").pipeline.seq_len == 64


def test_an_experiment_is_the_home_folders_whatever_lies_here(experiments, tiny_model, tmp_path, monkeypatch):
    (tmp_path / "here" / "fox").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert Shelf("owl", "float32").open("fox").pipeline.seq_len == 64


@pytest.mark.parametrize("name", ["/etc", "../owl", "owl/model", ".views", "empty", "somebody/model", "", "owl\x00"])
def test_what_is_not_on_the_list_is_not_opened(experiments, name):
    with pytest.raises(UserError, match="not on the list"):
        Shelf("owl").open(name)


def test_a_model_that_exists_elsewhere_is_not_opened_by_its_path(experiments, tiny_model):
    with pytest.raises(UserError, match="not on the list"):
        Shelf("owl").open(str(tiny_model))


def test_few_models_stay_in_memory(experiments, tiny_model, monkeypatch):
    monkeypatch.setattr(shelves, "LOADED", 1)
    shelf = Shelf("owl", "float32")
    first = shelf.open("owl")
    shelf.open("fox")
    assert shelf.open("owl") is not first


def test_a_model_says_what_it_is(loaded):
    parameters = sum(weight.numel() for weight in loaded.pipeline.model.parameters())
    assert loaded.facts == f"{parameters:,} parameters · 64 tokens · cpu, float32"


def asked(shelf, wanted):
    """The names, once the registry has answered."""
    shelf.ask_registry()
    deadline = time.monotonic() + 60
    while shelf.names() != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return shelf.names()


def test_registered_models_are_offered_each_once_and_open_by_version_and_alias(published, experiments):
    assert has_registry()
    shelf = Shelf("owl", "float32")
    assert asked(shelf, wanted := ["owl", "fox", "ddlm-hare@champion"]) == wanted
    assert shelf.open("ddlm-hare@champion").pipeline.seq_len == 64
    shelf = Shelf("ddlm-hare/1", "float32")
    assert asked(shelf, wanted := ["ddlm-hare/1", "fox", "owl"]) == wanted
    assert shelf.open("ddlm-hare/1").pipeline.seq_len == 64


def test_a_published_model_that_is_an_experiments_own_is_not_offered_twice(published, experiments, tiny_model):
    shutil.copytree(tiny_model, open_store().root / "train" / "key")
    (home() / "owl" / "artifacts.json").write_text(json.dumps({"train": "train/key"}))
    (home() / "fox" / "artifacts.json").write_text("[]")
    shelf = Shelf("owl")
    shelf._ask()
    assert shelf.names() == ["owl", "fox"]


def test_without_a_registry_none_is_made(experiments):
    shelf = Shelf("owl")
    shelf.ask_registry()
    assert not has_registry()
    assert not (home() / "mlflow.db").exists()


def test_a_registry_that_is_down_is_a_line_in_the_log(experiments, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    shelf = Shelf("owl")
    with caplog.at_level(logging.WARNING, logger="ddlm"):
        shelf._ask()
    assert "no registered models on the page: MLflow at http://127.0.0.1:9" in caplog.text
    assert shelf.names() == ["owl", "fox"]


def test_a_model_that_is_nowhere_is_refused_at_once():
    with pytest.raises(UserError, match="model hen: no such folder or experiment"):
        Shelf("hen")
