"""Publishing into a real registry: versions, aliases, and who becomes champion."""

import json
import math
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.artifacts import download_artifacts

from ddlm.artifacts import DamageError, Workspace, seal
from ddlm.experiment import publish
from ddlm.experiment.publish import StoryScores, decide
from ddlm.tracking import Tracker, TrackingConfig

STORIES = 60
MLFLOW = TrackingConfig()


@pytest.fixture
def make(tmp_path, recorder):
    """Makes the workspace of a publish stage whose model needs `gain` bits per byte less than the first."""

    def workspace(gain=0.0, *, data="text-1", weights=b"weights", noise=0.02, text_bytes=800):
        folder = tmp_path / f"stage-{len(list(tmp_path.iterdir()))}"
        rng = np.random.default_rng(5)
        sizes = np.full(STORIES, text_bytes)
        bits = sizes * (2.0 - gain + rng.normal(0, noise, STORIES) * bool(gain))
        table = {"story": np.arange(STORIES), "nats": bits * math.log(2), "text_bytes": sizes}
        scores = {"bits_per_byte": bits.sum() / sizes.sum(), "nll_nats": 3.0 - gain, "data_digest": data}
        scores["settings"] = {"stories": STORIES, "masks_per_row": 4, "seed": 1}
        inputs = {stage: folder / stage for stage in ("corpus", "train", "evaluate", "export")}
        for path in (*inputs.values(), folder / "output", folder / "scratch"):
            path.mkdir(parents=True)
        (inputs["train"] / "config.json").write_text("{}")
        (inputs["train"] / "model.safetensors").write_bytes(weights + str(gain).encode())
        (inputs["evaluate"] / "scores.json").write_text(json.dumps(scores))
        pq.write_table(pa.table(table), inputs["evaluate"] / "row_nats.parquet")
        (inputs["export"] / "manifest.txt").write_text("bundle")
        for stage, path in inputs.items():
            seal(path, stage)
        return Workspace(inputs, folder / "output", folder / "scratch", recorder)

    return workspace


def run(workspace, tracking=MLFLOW, **given):
    """Publish, and read what was written."""
    publish.build(workspace, **{"seed": 1, "name": "tale", "tracking": tracking, **given})
    return json.loads((workspace.output / "publication.json").read_text())


def test_the_first_version_is_champion_and_challenger(make, client):
    publication = run(make())
    assert publication == {
        "format_version": 1, "registered": True, "model": "ddlm-tale", "version": "1",
        "aliases": {"challenger": "1", "champion": "1"}, "decision": "promoted", "champion_before": None,
        "difference_bits_per_byte": None, "interval_bits_per_byte": None,
        "reason": "ddlm-tale version 1 becomes champion: it is the first",
    }  # fmt: skip
    version = client.get_model_version_by_alias("ddlm-tale", "champion")
    assert version.tags["data_digest"] == "text-1"
    assert float(version.tags["bits_per_byte"]) == pytest.approx(2.0)
    assert float(version.tags["nll_nats"]) == 3.0
    assert {"digest.train", "digest.evaluate", "digest.export"} <= set(version.tags)


def test_a_clearly_better_model_becomes_champion(make, client):
    run(make())
    publication = run(make(0.1))
    assert publication["decision"] == "promoted"
    assert publication["aliases"] == {"challenger": "2", "champion": "2"}
    assert publication["champion_before"] == "1"
    low, high = publication["interval_bits_per_byte"]
    assert low < publication["difference_bits_per_byte"] < high < 0
    assert publication["difference_bits_per_byte"] == pytest.approx(-0.1, abs=0.01)
    assert publication["reason"].startswith("ddlm-tale version 2 becomes champion: the new one differs by -0.")
    assert client.get_model_version_by_alias("ddlm-tale", "champion").version == 2


@pytest.mark.parametrize(("gain", "noise"), [(-0.1, 0.02), (0.001, 0.1)])
def test_a_model_that_is_worse_or_hardly_better_is_challenger_only(make, client, gain, noise):
    run(make())
    publication = run(make(gain, noise=noise))
    assert publication["decision"] == "kept"
    assert publication["aliases"] == {"challenger": "2", "champion": "1"}
    assert publication["interval_bits_per_byte"][1] > 0
    assert client.get_model_version_by_alias("ddlm-tale", "champion").version == 1
    assert client.get_model_version_by_alias("ddlm-tale", "challenger").version == 2


def test_a_champion_that_can_not_be_scored_on_the_new_text_stays(make):
    run(make())
    publication = run(make(0.5, data="text-2"))
    assert publication["aliases"] == {"challenger": "2", "champion": "1"}
    assert "it has to be scored anew on the new evaluation text, and model " in publication["reason"]
    assert "tokenizer.json, tokenizer_config.json missing" in publication["reason"]


def test_rows_that_hold_other_pieces_of_the_text_never_move_the_champion(make):
    run(make())
    publication = run(make(0.5, text_bytes=900))
    assert publication["aliases"]["champion"] == "1"
    assert "can't be paired" in publication["reason"]


def test_a_champion_without_its_rows_is_scored_anew_and_stays_where_that_fails(make, home):
    run(make())
    (rows,) = home.glob("mlartifacts/**/row_nats.parquet")
    rows.unlink()
    publication = run(make(0.5))
    assert publication["aliases"]["champion"] == "1"
    assert "it has to be scored anew since its rows are gone, and model " in publication["reason"]


def test_a_moved_home_keeps_its_files_and_finds_those_of_its_champion(make, home, monkeypatch):
    run(make())
    moved = home.with_name("moved")
    home.rename(moved)
    monkeypatch.setenv("DDLM_HOME", str(moved))
    publication = run(make(0.1))
    assert publication["aliases"] == {"challenger": "2", "champion": "2"}
    assert not home.exists()
    assert len(list(moved.glob("mlartifacts/**/row_nats.parquet"))) == 2


def delete_run(client, version):
    """As somebody does in MLflow's pages, with `mlflow gc` behind it."""
    client.delete_run(version.run_id)
    client._tracking_client.store._hard_delete_run(version.run_id)


def test_a_version_outlives_its_run(make, client):
    run(make())
    delete_run(client, client.get_model_version("ddlm-tale", "1"))
    assert run(make(0.1))["aliases"] == {"challenger": "2", "champion": "2"}


def test_a_champion_whose_files_are_gone_stays_and_the_reason_says_how_to_replace_it(make, client, home):
    run(make())
    shutil.rmtree(home / "mlartifacts")
    delete_run(client, client.get_model_version("ddlm-tale", "1"))
    publication = run(make(0.1))
    assert publication["aliases"] == {"challenger": "2", "champion": "1"}
    assert "its files are gone or are not those published" in publication["reason"]
    assert "ddlm registry promote ddlm-tale VERSION" in publication["reason"]


def test_the_same_model_is_registered_again_when_its_files_are_gone(make, home):
    run(make())
    shutil.rmtree(home / "mlartifacts")
    assert run(make())["version"] == "2"


def test_a_version_that_somebody_made_champion_by_hand_stays_and_the_run_ends_well(make, client):
    run(make())
    source = client.get_model_version("ddlm-tale", "1").source
    by_hand = client.create_model_version("ddlm-tale", source, None)
    client.set_registered_model_alias("ddlm-tale", "champion", by_hand.version)
    publication = run(make(0.1))
    assert publication["aliases"] == {"challenger": "3", "champion": "2"}
    assert "ddlm-tale version 2: has no tag digest.train" in publication["reason"]


def test_without_the_alias_the_next_version_becomes_champion(make, client):
    run(make())
    client.delete_registered_model_alias("ddlm-tale", "champion")
    assert run(make(-0.1))["reason"] == "ddlm-tale version 2 becomes champion: no version was champion"


def test_where_promotion_is_by_hand_a_better_version_waits(make, client):
    by_hand = TrackingConfig(promotion="by hand")
    publication = run(make(), by_hand)
    assert publication["aliases"] == {"challenger": "1"}
    assert publication["reason"].startswith("ddlm-tale version 1 is registered and not champion: it is the first; ")
    run(make())
    publication = run(make(0.1), by_hand)
    assert publication["aliases"] == {"challenger": "2", "champion": "1"}
    assert publication["reason"].endswith("promotion is by hand: ddlm registry promote ddlm-tale 2")


def test_a_version_says_why_it_is_what_it_is_and_links_to_its_model(make, client):
    run(make())
    publication = run(make(0.1))
    version = client.get_model_version("ddlm-tale", "2")
    assert version.description == publication["reason"]
    assert json.loads(version.tags["bits_per_byte_interval"]) is None
    (model,) = client.search_logged_models(
        [client.get_experiment_by_name("tale").experiment_id], f"source_run_id = '{version.run_id}'"
    )
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "ddlm-tale", "version": 2}]
    assert str(model.status) == "READY"


def test_an_mlflow_model_names_no_path_of_the_machine_that_published_it(make, home, tmp_path):
    run(make())
    (described,) = home.glob("mlartifacts/**/MLmodel")
    assert str(tmp_path) not in described.read_text()
    assert str(Path(publish.__file__).parent) not in described.read_text()


def test_publishing_waits_for_a_database_that_is_locked(make, home, caplog):
    workspace = make()
    with closing(sqlite3.connect(home / "mlflow.db", check_same_thread=False)) as database:
        database.execute("BEGIN IMMEDIATE")
        later = threading.Timer(6, database.rollback)
        later.start()
        assert run(workspace, TrackingConfig(wait_minutes=1))["version"] == "1"
        later.join()
    assert "publish: MLflow at sqlite:" in caplog.text
    assert "trying again in 1 s" in caplog.text


def test_the_same_model_with_the_same_scores_is_one_version(make, client):
    run(make())
    run(make(0.1))
    publication = run(make(0.1))
    assert publication["version"] == "2"
    assert publication["reason"] == "ddlm-tale version 2 stays champion: it holds this very model"
    assert len(client.search_model_versions("name = 'ddlm-tale'")) == 2
    assert run(make(0.1, weights=b"other"))["version"] == "3"


def test_a_version_is_a_model_of_its_experiment_s_run(make, home, client):
    tracker = Tracker(MLFLOW, experiment="tale", params={"seed": 1}, tags={})
    with tracker.stage("publish") as stage:
        run(replace(make(), run=stage))
    tracker.finish({"evaluation/nll_nats": 3.0})
    version = client.get_model_version_by_alias("ddlm-tale", "champion")
    assert version.run_id == tracker.run_id
    source = client.get_run(version.run_id)
    assert source.data.params == {"seed": "1"}
    assert source.data.metrics["evaluation/nll_nats"] == 3.0
    folder = Path(download_artifacts(artifact_uri=version.source))
    assert {path.name for path in (folder / "evaluation").iterdir()} == {"row_nats.parquet", "scores.json"}
    assert (folder / "artifacts" / "model" / "model.safetensors").exists()


def test_versions_of_before_keep_their_model_and_their_scores_in_their_run(make, client, home):
    workspace = make()
    run_id = client.create_run(client.create_experiment("tale", (home / "mlartifacts" / "tale").as_uri())).info.run_id
    client.log_artifacts(run_id, str(workspace.inputs["train"]), "model/artifacts/abc")
    client.log_artifact(run_id, str(workspace.inputs["evaluate"] / "row_nats.parquet"), "evaluation")
    client.create_registered_model("ddlm-tale")
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    client.create_model_version("ddlm-tale", source, run_id, {"data_digest": "text-1"})
    client.set_registered_model_alias("ddlm-tale", "champion", "1")
    assert run(make(0.1))["aliases"] == {"challenger": "2", "champion": "2"}


def test_a_flipped_byte_in_an_input_is_found_before_anything_is_registered(make, client):
    workspace = make()
    path = workspace.inputs["train"] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DamageError, match=r"model\.safetensors has another sha256"):
        run(workspace)
    assert client.search_registered_models() == []


@pytest.mark.parametrize("backend", ["jsonl", "none"])
def test_without_mlflow_the_publication_says_that_nothing_was_registered(make, home, backend):
    publication = run(make(), TrackingConfig(backend=backend))
    reason = f"not registered: tracking.backend is '{backend}', and only mlflow has a model registry"
    assert publication == {"format_version": 1, "registered": False, "reason": reason}


def test_an_unreachable_registry_is_a_connection_error(make):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workspace = make()
    with pytest.raises(ConnectionError, match=rf"MLflow at http://127\.0\.0\.1:{port}: .*refused"):
        run(workspace, TrackingConfig(uri=f"http://127.0.0.1:{port}", wait_minutes=0))
    assert list(workspace.output.iterdir()) == []


def test_rows_of_one_story_are_drawn_together(tmp_path):
    rows = {"story": [0, 0, 1], "nats": [1.0, 2.0, 4.0], "text_bytes": [10, 20, 40]}
    pq.write_table(pa.table(rows), tmp_path / "row_nats.parquet")
    scores = publish.read_scores(tmp_path / "row_nats.parquet")
    assert scores.nats.tolist() == [3.0, 4.0]
    assert scores.text_bytes.tolist() == [30, 40]


def test_the_pairing_counts_not_the_spread_of_the_stories():
    rng = np.random.default_rng(0)
    sizes = np.full(100, 1000)
    nats = rng.normal(1000.0, 300.0, 100)
    assert decide(StoryScores(nats - 1, sizes), StoryScores(nats, sizes), seed=0).promote
    shuffled = StoryScores(rng.permutation(nats) - 1, sizes)
    assert not decide(shuffled, StoryScores(nats, sizes), seed=0).promote


def test_the_decision_is_the_same_for_the_same_seed():
    sizes = np.full(50, 1000)
    new, old = (StoryScores(np.random.default_rng(n).normal(1000.0, 30.0, 50), sizes) for n in (0, 1))
    assert decide(new, old, seed=3) == decide(new, old, seed=3)
    assert decide(new, old, seed=3).interval != decide(new, old, seed=4).interval


@pytest.mark.slow
def test_a_registered_model_writes_the_library_s_text_where_ddlm_is_not_installed(
    make, home, tiny_model, tmp_path, monkeypatch
):
    from ddlm.diffusion import SamplingConfig
    from ddlm.generation import DiffusionPipeline

    workspace = make()
    run(replace(workspace, inputs={**workspace.inputs, "train": tiny_model}))
    program = (
        "import json, mlflow, sys\n"
        f"mlflow.set_tracking_uri('sqlite:///{home / 'mlflow.db'}')\n"
        "model = mlflow.pyfunc.load_model('models:/ddlm-tale@champion')\n"
        "import pandas, ddlm\n"
        "texts = [model.predict(['Once', 'The']), model.predict(pandas.DataFrame({'prompt': ['Once', 'The']})),\n"
        "         model.predict('Once', params={'steps': 4, 'seed': 3, 'length': 12, 'temperature': 0.5})]\n"
        "json.dump({'texts': texts, 'code': ddlm.__file__}, open(sys.argv[1], 'w'))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = tmp_path / "answer.json"
    subprocess.run([sys.executable, "-c", program, answer], cwd=tmp_path, env=environment, check=True)
    said = json.loads(answer.read_text())
    pipeline = DiffusionPipeline.from_pretrained(tiny_model)
    expected = [sample.text for sample in pipeline.generate_batch(["Once", "The"]).samples]
    sampling = SamplingConfig(num_sampling_steps=4, temperature=0.5)
    asked = [sample.text for sample in pipeline.generate("Once", sampling=sampling, seed=3, length=12).samples]
    assert said["texts"] == [expected, expected, asked]
    assert str(home / "mlartifacts") in said["code"]
    assert not list((home / "mlartifacts").rglob("*.pkl"))
    (requirements,) = (home / "mlartifacts").rglob("requirements.txt")
    assert re.search(r"^torch==[0-9.]+$", requirements.read_text(), re.MULTILINE)
