"""Loading, overriding and refusing configuration."""

import re
import shlex
from pathlib import Path

import pytest

from ddlm.artifacts import open_store
from ddlm.config import UserError, dump_toml, home, installing, parse, parse_override, read_toml
from ddlm.experiment import RESERVED, Experiment, load_experiment

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "tiny.toml"


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
        ("name=Bad Name", "name: got 'Bad Name', wanted at most 64 lower-case letters"),
        ("name=artifacts", "'artifacts' is the name of a folder of ddlm's own"),
        (f"name={'x' * 300}", r"name: got 'x{59}… \(302 characters\)"),
        ("training.learning_rate=inf", "training.learning_rate.*finite"),
        ("training.betas=[0.9, nan]", "training.betas.*finite"),
        ("tokenizer.vocab_size=1000000000", "tokenizer.vocab_size.*1048576"),
        ("model.d_model=1000000", "model.d_model.*32768"),
        ("sampling.cache=approximate", "cache approximate has no effect without blocks"),
        ("export.lengths=[64, 1000]", "export.lengths has 1000, but the model writes shards.seq_len"),
        ("training.decay_share=0.5", "decay_share 0.5 is for decay wsd, and that is cosine"),
        ('training={decay = "constant", final_learning_rate_ratio = 0.5}', "no effect with decay constant"),
        ("tokenizer.unknown=replace", 'unknown "replace" has no effect with kind bpe'),
        ("training.betas=[0.9, 1.5]", "training.betas.1: .*less than 1"),
        (f"training.steps={10**30}", "training.steps: wanted a number of at most 64 bits"),
        ("evaluation.num_samples=1000000000", "evaluation.num_samples.*1048576"),
        ("corpus.hub_timeout_s=1e300", "corpus.hub_timeout_s.*86400"),
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
    with pytest.raises(UserError, match="line 1 is not UTF-8 text"):
        read_toml(tmp_path / "binary.toml")


def test_a_file_from_an_editor_on_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes("\ufeffname = 'a'\r\n[model]\r\nd_model = 32\r\n".encode())
    assert read_toml(path) == {"name": "a", "model": {"d_model": 32}}
    path.write_bytes(b"name = 'a'\nseed = 1\n# caf\xe9\n")
    with pytest.raises(UserError, match=r"line 3 is not UTF-8"):
        read_toml(path)


def test_a_tilde_is_the_home_folder_wherever_a_path_may_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = {
        "corpus.source", "tokenizer.pretrained", "training.init_from", "training.resume_from", "evaluation.judge",
        "evaluation.twin", "evaluation.pairs", "tracking.uri",
    }  # fmt: skip
    found = load_experiment(TINY, dict.fromkeys(paths, "~/it")).model_dump()
    assert {found[section][key] for section, _, key in (path.partition(".") for path in paths)} == {f"{tmp_path}/it"}
    monkeypatch.setenv("DDLM_HOME", "~/state")
    monkeypatch.setenv("DDLM_STORE", "~/store")
    assert home() == tmp_path / "state"
    assert open_store().root == tmp_path / "store"


def test_every_folder_of_ddlms_own_is_reserved() -> None:
    sources = [path.read_text() for folder in ("ddlm", "flows") for path in (ROOT / folder).rglob("*.py")]
    own = {name for text in sources for name in re.findall(r'home\(\) / f?"(\w+)"', text)}
    assert len(own) > 5
    assert own <= RESERVED


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


def test_an_extra_is_installed_where_ddlm_runs_from() -> None:
    """ddlm is on no index: from a project's folder its path is given."""
    command = installing("ui")
    assert shlex.split(command)[1:] == ["-m", "pip", "install", "-c", f"{ROOT}/constraints.txt", "-e", f"{ROOT}[ui]"]
