"""Keys, staleness, order."""

from pathlib import Path

import pytest

from ddlm.artifacts import Artifact, ArtifactStore, DamageError
from ddlm.cli import explain
from ddlm.config import UserError
from ddlm.experiment import Experiment, fingerprint, load_experiment
from ddlm.experiment.datasets import datasets
from ddlm.experiment.fingerprint import reachable
from ddlm.experiment.stages import STAGES, NotPublished, Session, needed_for, run_plainly
from ddlm.tracking.mlflow_runs import MlflowRuns
from tests.ddlm.experiment.damage import flip_a_bit

TINY = Path(__file__).parents[3] / "configs" / "tiny.toml"
INPUTS = [Artifact(name, "k", f"digest of {name}", Path(name)) for name in ("tokenizer", "shards")]


def key(tiny: Experiment, stage: str = "train", inputs: list[Artifact] = INPUTS, **sections: object) -> str:
    changed = {
        name: getattr(tiny, name).model_copy(update=value) if isinstance(value, dict) else value
        for name, value in sections.items()
    }
    return Session(tiny.model_copy(update=changed)).key(stage, inputs)


def test_a_key_follows_config_seed_and_inputs(tiny: Experiment) -> None:
    same = key(tiny)
    assert key(tiny) == same
    assert key(tiny, training={"steps": 13}) != same
    assert key(tiny, seed=2) != same
    other = [INPUTS[0], Artifact("shards", "k", "another digest", Path("shards"))]
    assert key(tiny, inputs=other) != same


def test_a_key_ignores_what_can_not_change_the_result(tiny: Experiment) -> None:
    same = key(tiny)
    assert key(tiny, training={"log_every_steps": 99, "threads": 1, "device": "cpu"}) == same
    assert key(tiny, rendering={"theme": "neon"}) == same
    elsewhere = [Artifact(item.stage, "another key", item.digest, Path("elsewhere")) for item in INPUTS]
    assert key(tiny, inputs=elsewhere) == same


@pytest.mark.parametrize("stage", ["corpus", "tokenizer", "shards"])
def test_a_stage_without_chance_has_no_seed_in_its_key(tiny: Experiment, stage: str) -> None:
    inputs = [Artifact(name, "k", f"digest of {name}", Path(name)) for name in STAGES[stage].inputs]
    assert key(tiny, stage, inputs, seed=2) == key(tiny, stage, inputs)


def test_nothing_is_built_from_a_damaged_input(tiny: Experiment, tmp_path: Path) -> None:
    """Sizes are right: only a hash shows it. What was built before the damage stays found."""
    session = Session(tiny, store=ArtifactStore(tmp_path / "store"))
    corpus, _ = session.run("corpus", [])
    (path,) = corpus.path.glob("train.parquet")
    flip_a_bit(path)
    with pytest.raises(DamageError, match=r"corpus is damaged: .*train\.parquet.* --verify"):
        session.run("tokenizer", [corpus])
    mended, built = Session(tiny, store=session.store, verify=True).run("corpus", [])
    assert built
    assert session.run("tokenizer", [mended])[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"evaluation.pairs": "nowhere"}, r"evaluation\.pairs nowhere: no such file or folder"),
        ({"training.init_from": "nowhere"}, r"training\.init_from: model nowhere: no such folder or experiment"),
        ({"tokenizer.pretrained": "nowhere"}, r"tokenizer\.pretrained nowhere: found neither"),
        ({"sampling.cache": "approximate", "sampling.block_size": 16}, 'export: sampling.cache is "approximate"'),
        ({"model.d_model": 2**15, "model.num_layers": 1024}, "take .* GB, and this machine has .* GB of memory"),
    ],
)
def test_what_a_late_stage_would_end_with_is_known_before_the_first(
    overrides: dict[str, object], message: str, tmp_path: Path
) -> None:
    session = Session(load_experiment(TINY, overrides), store=ArtifactStore(tmp_path / "store"))
    with pytest.raises(UserError, match=message):
        run_plainly(session)
    with pytest.raises(UserError, match=message):
        session.cached()
    assert list(session.store) == []
    run_plainly(session, until="corpus")


def forget() -> None:
    for name in ("fingerprint", "_imports", "_tree", "_parse", "_path"):
        getattr(fingerprint, name).cache_clear()


def test_code_counts_and_its_layout_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "ddlm"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "stage.py").write_text("from ddlm.maths import double\n\ndef build():\n    return double(1)\n")
    (package / "maths.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)

    def digest() -> str:
        forget()
        return fingerprint.fingerprint("ddlm.stage")

    same = digest()
    (package / "maths.py").write_text('def double(x):\n    """Twice."""\n    # a comment\n    return 2*x\n')
    assert digest() == same
    (package / "maths.py").write_text("def double(x):\n    return 3 * x\n")
    assert digest() != same
    forget()


def test_a_stage_reaches_what_it_runs() -> None:
    assert {"ddlm.model.transformer", "ddlm.diffusion.objective", "ddlm.data.loader"} <= reachable(
        "ddlm.training.stage"
    )
    assert "ddlm.diffusion.sampler" not in reachable("ddlm.training.stage"), "a sampler's change would retrain"
    assert {"ddlm.draws", "ddlm.export.runtime.generate"} <= reachable("ddlm.export.stage")


def test_shell_that_ships_with_a_bundle_counts_as_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ddlm" / "export" / "device"
    folder.mkdir(parents=True)
    for place in (folder, folder.parent, folder.parent.parent):
        (place / "__init__.py").write_text("")
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)

    def digest(text: str) -> str:
        (folder / "build_engine.sh").write_text(text)
        forget()
        return fingerprint.fingerprint("ddlm.export.device")

    digests = [digest(text) for text in ("echo 1", "echo 2", "echo 1")]
    forget()
    assert digests[0] == digests[2] != digests[1]


def test_stages_come_after_their_inputs() -> None:
    names = list(STAGES)
    for name, stage in STAGES.items():
        assert all(names.index(given) < names.index(name) for given in stage.inputs)
        assert set(stage.sections) <= set(Experiment.model_fields)
    assert needed_for("train") == ["corpus", "tokenizer", "shards", "train"]
    assert needed_for("render") == ["corpus", "tokenizer", "shards", "train", "render"]
    assert needed_for(None) == names
    with pytest.raises(UserError, match="unknown stage 'trian'"):
        needed_for("trian")


def test_what_was_built_is_shown_when_it_can_not_be_published(
    tiny_artifacts: dict[str, Artifact], tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDLM_HOME", str(tmp_path))
    session = Session(tiny)
    said = r"publish: MLflow at http://127\.0\.0\.1:1: .*; all else is built: give the same command again"
    with pytest.raises(NotPublished, match=said) as end, session, session.publishing(tiny_artifacts):
        MlflowRuns("http://127.0.0.1:1").open()
    summary = end.value.summary
    assert summary.decision == "not published: MLflow did not answer"
    assert summary.stages.keys() == tiny_artifacts.keys()
    assert (tmp_path / "tiny" / "model" / "model.safetensors").exists()
    assert explain(end.value) == (str(end.value), 1)


def test_a_tracked_run_names_its_corpus_and_what_the_shards_count_of_it(
    tiny_artifacts: dict[str, Artifact], tiny: Experiment
) -> None:
    used = {dataset.role: dataset for dataset in datasets(tiny, tiny_artifacts)}
    assert set(used) == {"training", "validation"}
    assert used["training"].digest.startswith(tiny_artifacts["corpus"].digest[:16])
    assert used["training"].counts["rows"] > used["validation"].counts["rows"] > 0
