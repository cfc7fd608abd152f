"""Registered models as folders, and champions scored on a text that is new to them."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from safetensors.torch import load_file, save_file

from ddlm.artifacts import Artifact, Unlogged, Workspace, seal, sha256_file
from ddlm.config import UserError
from ddlm.data.corpus import read_stories
from ddlm.diffusion import SamplingConfig
from ddlm.evaluation import EvaluationConfig, sources
from ddlm.evaluation.scores import data_digest
from ddlm.experiment import evaluations, load_experiment, publish
from ddlm.experiment.stages import Session, run_plainly
from ddlm.generation import DiffusionPipeline
from ddlm.model import registered
from ddlm.model.source import find_folder
from ddlm.tracking import TrackingConfig
from ddlm.training.sources import weights_of
from tests.ddlm.experiment.damage import flip_a_bit

SETTINGS = {"stories": 8, "masks_per_row": 4, "seed": 1}
TINY = Path(__file__).parents[3] / "configs" / "tiny.toml"
WEIGHTS = "model.safetensors"
SMALL = {
    "evaluation.stories": 8,
    "evaluation.masks_per_row": 4,
    "evaluation.num_samples": 2,
    "evaluation.num_continuations": 1,
    "evaluation.chain_rule_stories": 0,
    "evaluation.num_infills": 0,
    "sampling.num_sampling_steps": 2,
}

Publish = Callable[..., dict[str, object]]


@pytest.fixture
def corpora(tiny_artifacts: dict[str, Artifact], tmp_path: Path) -> dict[str, Path]:
    """The validation stories of two weeks."""
    stories = [text[:120].strip() for text in read_stories(tiny_artifacts["corpus"].path, "validation")]  # a row each
    texts = {"old": stories[:6], "new": stories[6:12]}
    for name, part in texts.items():
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"text": part}), tmp_path / name / "validation.parquet")
        seal(tmp_path / name, "corpus")
    return {name: tmp_path / name for name in texts}


@pytest.fixture
def worse(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with noise in its weights."""
    folder = tmp_path / "worse"
    shutil.copytree(tiny_model, folder)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in load_file(folder / WEIGHTS).items()
    }
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    seal(folder, "train")
    return folder


@pytest.fixture
def publish_on(corpora: dict[str, Path], tmp_path: Path, home: Path) -> Publish:
    """Publish a model that was evaluated on the stories of a week; the publication."""

    def publish_model(model: Path, week: str) -> dict[str, object]:
        folder = tmp_path / f"publication-{len(list(tmp_path.iterdir()))}"
        inputs = {"corpus": corpora[week], "train": model} | {name: folder / name for name in ("evaluate", "export")}
        for path in (inputs["evaluate"], inputs["export"], folder / "output", folder / "scratch"):
            path.mkdir(parents=True)
        found = publish.rescored(model, corpora[week], SETTINGS)
        table = {"story": range(len(found.nats)), "nats": found.nats, "text_bytes": found.text_bytes}
        pq.write_table(
            pa.table({name: list(column) for name, column in table.items()}), inputs["evaluate"] / "row_nats.parquet"
        )
        scores = {
            "bits_per_byte": found.nats.sum(), "nll_nats": 1.0, "settings": SETTINGS,
            "data_digest": data_digest(read_stories(corpora[week], "validation")),
        }  # fmt: skip
        (inputs["evaluate"] / "scores.json").write_text(json.dumps(scores))
        for name in ("evaluate", "export"):
            seal(inputs[name], name)
        workspace = Workspace(inputs, folder / "output", folder / "scratch", Unlogged())
        publish.build(workspace, seed=1, name="tale", tracking=TrackingConfig())
        publication: dict[str, object] = json.loads((folder / "output" / "publication.json").read_text())
        return publication

    return publish_model


def test_a_champion_is_scored_anew_exactly_as_the_evaluation_scores(
    tiny_artifacts: dict[str, Artifact],
) -> None:
    small = load_experiment(TINY, {**SMALL, "tracking.backend": "none"})
    for artifact in tiny_artifacts.values():
        shutil.copytree(artifact.path, Session(small).store.root / artifact.stage / artifact.key)
    done = run_plainly(Session(small), until="evaluate")
    settings = json.loads((done["evaluate"].path / "scores.json").read_text())["settings"]
    anew = publish.rescored(done["train"].path, done["corpus"].path, settings)
    scores = publish.read_scores(done["evaluate"].path / "row_nats.parquet")
    assert anew.nats.tolist() == scores.nats.tolist()
    assert anew.text_bytes.tolist() == scores.text_bytes.tolist()


def test_on_a_new_text_a_better_model_becomes_champion(publish_on: Publish, worse: Path, tiny_model: Path) -> None:
    publish_on(worse, "old")
    publication = publish_on(tiny_model, "new")
    assert publication["decision"] == "promoted"
    assert str(publication["reason"]).endswith("the champion scored anew on the new evaluation text")


def test_on_a_new_text_a_worse_model_leaves_the_champion(publish_on: Publish, worse: Path, tiny_model: Path) -> None:
    publish_on(tiny_model, "old")
    publication = publish_on(worse, "new")
    assert publication["decision"] == "kept"
    difference = publication["difference_bits_per_byte"]
    assert isinstance(difference, float)
    assert difference > 0


def test_a_version_is_fetched_once_and_lies_at_the_same_place(
    publish_on: Publish, tiny_model: Path, home: Path
) -> None:
    publish_on(tiny_model, "old")
    folder = registered.weights_of_champion("tale", None)
    assert folder
    assert sha256_file(folder / WEIGHTS) == sha256_file(tiny_model / WEIGHTS)
    shutil.rmtree(home / "mlartifacts")
    assert registered.weights_of_champion("tale", None) == folder


def test_a_registered_model_is_a_model_everywhere(publish_on: Publish, tiny_model: Path, home: Path) -> None:
    publish_on(tiny_model, "old")
    folder = registered.weights_of_champion("tale", None)
    names = ("ddlm-tale@champion", "ddlm-tale/1", "models:/ddlm-tale@champion", "models:/ddlm-tale/1")
    for name in names:
        assert find_folder(name) == folder
    assert weights_of(names[0]) == folder / WEIGHTS  # type: ignore[operator]
    assert sources.resolve(SamplingConfig(), EvaluationConfig(twin=names[0])) == sources.resolve(
        SamplingConfig(), EvaluationConfig(twin=str(folder))
    )
    with pytest.raises(UserError, match=r"model models:/m-0123: wanted models:/NAME@ALIAS or models:/NAME/NUMBER"):
        find_folder("models:/m-0123")


def test_where_nothing_was_registered_nothing_is_made_to_ask(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model ddlm-tale@champion: nothing was registered in .*MLFLOW_TRACKING_URI"):
        find_folder("ddlm-tale@champion")
    assert not list(tmp_path.rglob("mlflow.db"))


def test_a_version_that_was_damaged_here_is_fetched_again(publish_on: Publish, tiny_model: Path) -> None:
    publish_on(tiny_model, "old")
    folder = registered.weights_of_champion("tale", None)
    assert folder
    flip_a_bit(folder / WEIGHTS)
    assert registered.weights_of_champion("tale", None) == folder
    assert sha256_file(folder / WEIGHTS) == sha256_file(tiny_model / WEIGHTS)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"other weights")])
def test_files_that_are_not_those_published_are_not_taken(
    publish_on: Publish, tiny_model: Path, home: Path, damage: Callable[[Path], None]
) -> None:
    publish_on(tiny_model, "old")
    (weights,) = home.glob("mlartifacts/**/artifacts/**/model.safetensors")
    damage(weights)
    with pytest.raises(UserError, match="version 1: its files are gone or are not those published; make another"):
        registered.weights_of_champion("tale", None)


def test_a_version_that_somebody_registered_by_hand_is_one_line(
    publish_on: Publish, tiny_model: Path, client: MlflowClient
) -> None:
    publish_on(tiny_model, "old")
    made = client.create_model_version("ddlm-tale", client.get_model_version("ddlm-tale", "1").source)
    client.set_registered_model_alias("ddlm-tale", "champion", str(made.version))
    for use in (partial(registered.weights_of_champion, "tale", None), partial(evaluate, "ddlm-tale@champion", None)):
        with pytest.raises(UserError, match=r"ddlm-tale version 2: has no tag digest\.train, so its files can't be"):
            use()


def test_what_mlflow_downloads_holds_a_model_folder(
    publish_on: Publish, tiny_model: Path, client: MlflowClient
) -> None:
    publish_on(tiny_model, "old")
    found = download_artifacts(client.get_model_version_download_uri("ddlm-tale", "1"))
    assert DiffusionPipeline.from_pretrained(Path(found) / "artifacts" / "model").generate("Once").samples


def test_an_experiment_without_a_champion_has_no_weights(home: Path) -> None:
    assert registered.weights_of_champion("tale", None) is None


@pytest.mark.parametrize(
    ("name", "known"),
    [("ddlm-tale/7", "ddlm-tale/1"), ("ddlm-tale@best", "ddlm-tale/1"), ("ddlm-other/1", "none of this model")],
)
def test_a_version_that_does_not_exist_is_one_line_with_those_that_do(
    publish_on: Publish, tiny_model: Path, name: str, known: str
) -> None:
    publish_on(tiny_model, "old")
    with pytest.raises(UserError, match=f"model {name}: no such version in sqlite:.*; it has {known}"):
        registered.find(name)


def test_versions_are_found_by_alias_and_number(publish_on: Publish, tiny_model: Path, worse: Path) -> None:
    publish_on(tiny_model, "old")
    publish_on(worse, "old")
    names = {name: registered.find(name) for name in ("ddlm-tale@champion", "ddlm-tale@challenger", "ddlm-tale/2")}
    assert [found and found.name for found in names.values()] == ["ddlm-tale/1", "ddlm-tale/2", "ddlm-tale/2"]


def test_a_folder_is_no_registered_model(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/3").mkdir(parents=True)
    assert registered.find("models/3") is None
    assert registered.find("tiny") is None


def evaluate(model: str, data: Path | None) -> evaluations.Rescored:
    settings = evaluations.settings_of("quick", SMALL)
    return evaluations.evaluate_model(model, data and str(data), settings, seed=1, uri=None, tags={})


def test_a_version_is_tagged_only_with_scores_on_its_own_text(
    publish_on: Publish, tiny_model: Path, corpora: dict[str, Path], client: MlflowClient, home: Path
) -> None:
    publish_on(tiny_model, "old")
    elsewhere = evaluate("ddlm-tale@champion", corpora["new"])
    assert "published with scores on another text" in elsewhere.note
    assert "rescored.bits_per_byte" not in client.get_model_version("ddlm-tale", "1").tags
    here = evaluate("ddlm-tale/1", corpora["old"])
    tags = client.get_model_version("ddlm-tale", "1").tags
    assert float(tags["rescored.bits_per_byte"]) == here.scores["evaluation/bits_per_byte"]
    assert here.folder.name == f"ddlm-tale-1-{tags['data_digest'][:12]}"
    assert {"report.html", "scores.json"} <= {path.name for path in here.folder.iterdir()}
    assert len(list((home / "evaluations").glob("[!.]*"))) == 2


def test_an_evaluation_is_tracked_with_its_text_and_its_version(
    publish_on: Publish, tiny_model: Path, corpora: dict[str, Path], client: MlflowClient
) -> None:
    publish_on(tiny_model, "old")
    found = evaluate("ddlm-tale/1", corpora["new"])
    experiment = client.get_experiment_by_name("tale")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id], "tags.`ddlm.model` = 'ddlm-tale/1'")
    text = data_digest(read_stories(corpora["new"], "validation"))
    assert run.data.tags["data_digest"] == text
    assert found.scores.items() <= run.data.metrics.items()
    assert found.scores["evaluation/bits_per_byte"] > 0
    assert {"report.html", "scores.json"} <= {item.path for item in client.list_artifacts(run.info.run_id)}


def test_a_folder_is_evaluated_too_and_says_that_nothing_was_tagged(
    tiny_model: Path, corpora: dict[str, Path], home: Path
) -> None:
    found = evaluate(str(tiny_model), corpora["old"])
    assert found.note == "not a registered version, so no version was tagged"
    assert found.name.startswith("sha256-")


def test_without_data_the_stories_of_the_publication_are_taken_while_they_are_there(
    publish_on: Publish, tiny_model: Path, corpora: dict[str, Path], home: Path
) -> None:
    publish_on(tiny_model, "old")
    shutil.copytree(corpora["new"], home / "artifacts" / "corpus" / "other")
    with pytest.raises(UserError, match="the stories that this model was published with are not here; give data"):
        evaluate("ddlm-tale/1", None)
    shutil.copytree(corpora["old"], home / "artifacts" / "corpus" / "key")
    assert "was tagged" in evaluate("ddlm-tale/1", None).note


def test_a_key_that_no_evaluation_has_is_one_line() -> None:
    with pytest.raises(UserError, match=r"evaluate: unknown key evaluation\.storys; allowed here: .*stories"):
        evaluations.settings_of("quick", {"evaluation.storys": 3})
