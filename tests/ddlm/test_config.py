"""Loading, overriding and refusing configuration."""

from pathlib import Path

import pytest

from ddlm.config import UserError, dump_toml, parse, parse_override, read_toml
from ddlm.experiment import Experiment, load_experiment

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
TINY = Path(__file__).parents[2] / "configs" / "tiny.toml"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    experiment = load_experiment(path)
    copy = tmp_path / "copy.toml"
    copy.write_text(dump_toml(experiment))
    assert load_experiment(copy) == experiment
    assert len(path.read_text().splitlines()) <= 40, "a config fits on a screen"


def test_an_override_reaches_its_field() -> None:
    overrides = dict(map(parse_override, ["training.steps=7", "corpus.source=stories.txt", "model.tied_head=true"]))
    experiment = load_experiment(TINY, overrides)
    assert experiment.training.steps == 7
    assert experiment.corpus.source == "stories.txt"
    assert experiment.model.tied_head


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.stepz=1", "unknown key training.stepz; allowed here: accumulation"),
        ("nothing=1", "unknown key nothing; allowed here: corpus"),
        ("training.steps=many", "training.steps.*integer.*'many'"),
        ("training.steps=0", "training.steps.*greater than or equal to 1.*got 0"),
        ("training.steps=1.5", "training.steps.*integer"),
        ("model.num_heads=3", "d_model 32 is not an even multiple of num_heads 3"),
        ("rendering.theme=sepia", "unknown theme 'sepia'; wanted one of paper"),
        ("name=Bad Name", "name: String should match pattern"),
        ("training.steps.more=1", "steps is a value, not a section"),
    ],
)
def test_a_wrong_override_is_refused_with_its_path(override: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_experiment(TINY, dict([parse_override(override)]))
    assert "\n" not in str(caught.value)


def test_an_override_without_an_equals_sign_is_refused() -> None:
    with pytest.raises(UserError, match=r"wanted section.key=value"):
        parse_override("training.steps")


def test_a_missing_file_and_a_file_that_is_not_toml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(UserError, match="not valid TOML"):
        read_toml(tmp_path / "bad.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not valid TOML"):
        read_toml(tmp_path / "binary.toml")


def test_execution_only_fields_are_not_part_of_a_key() -> None:
    keyed = load_experiment(TINY).training.keyed()
    assert "steps" in keyed
    assert not {"device", "threads", "log_every_steps", "validate_every_steps", "save_every_steps"} & set(keyed)


def test_a_config_can_not_be_changed() -> None:
    experiment = load_experiment(TINY)
    with pytest.raises(ValueError, match="frozen"):
        experiment.seed = 2  # type: ignore[misc]


def test_a_name_is_required() -> None:
    with pytest.raises(UserError, match="name is missing"):
        parse(Experiment, {}, source="test")
