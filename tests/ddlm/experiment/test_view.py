"""`outputs/<name>/`: assembled, swapped in, and what it protects from collection."""

import html
import json
import os
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from ddlm.artifacts import Artifact, ArtifactStore, DamageError
from ddlm.config import UserError
from ddlm.experiment import Experiment
from ddlm.experiment.stages import Session
from ddlm.experiment.view import assemble, best_sample, in_use, program, quoted, summarise
from tests.ddlm.experiment.damage import flip_a_bit


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    monkeypatch.setenv("DDLM_HOME", str(tmp_path))

    def fill(output: Path, scratch: Path) -> None:
        (output / "config.json").write_text("{}")

    return ArtifactStore(tmp_path / "artifacts").build("train", "k", fill)[0]


def test_the_view_shows_the_last_run_and_keeps_its_artifacts(artifact: Artifact, tiny: Experiment) -> None:
    link = assemble(tiny, {"train": artifact})
    assert (link / "model" / "config.json").read_text() == "{}"
    assert (link / "model" / "experiment.toml").exists()
    assert in_use() == {artifact.path.resolve()}
    first = link.resolve()
    assert assemble(tiny, {"train": artifact}).resolve() == first
    other = tiny.model_copy(update={"seed": 2})
    assert assemble(other, {"train": artifact}).resolve() != first
    assert not first.exists(), "the old view is gone"


def test_commands_to_try_next_run_as_they_are_printed(
    artifact: Artifact, tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert summarise(tiny, {}, []).next_commands() == [], "nothing is there yet"
    bin = tmp_path / "a folder" / "bin"
    bin.mkdir(parents=True)
    for name in ("ddlm", "python"):
        (bin / name).touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(bin / "python"))
    commands = summarise(tiny, {"train": artifact}, []).next_commands()
    assert [shlex.split(command)[:3] for command in commands] == [
        ["a folder/bin/ddlm", "generate", "tiny"],
        ["a folder/bin/ddlm", "render", "tiny"],
    ]
    monkeypatch.setenv("PATH", str(bin), prepend=os.pathsep)
    assert program("ddlm") == "ddlm"


def test_the_held_out_stories_are_at_hand(artifact: Artifact, tiny: Experiment, tmp_path: Path) -> None:
    def fill(output: Path, scratch: Path) -> None:
        (output / "validation.parquet").write_text("stories")

    corpus = ArtifactStore(tmp_path / "artifacts").build("corpus", "k", fill)[0]
    link = assemble(tiny, {"corpus": corpus, "train": artifact})
    assert (link / "validation.parquet").read_text() == "stories"


def test_runs_that_end_at_once_leave_one_whole_view(artifact: Artifact, tiny: Experiment) -> None:
    experiments = [tiny.model_copy(update={"seed": seed}) for seed in (1, 2, 1, 2)]
    for _ in range(10):
        with ThreadPoolExecutor(4) as runs:
            links = list(runs.map(lambda experiment: assemble(experiment, {"train": artifact}), experiments))
        assert (links[0] / "model" / "README.md").exists()
        assert len(list(links[0].resolve().parent.iterdir())) == 1


def test_a_run_that_stops_before_training_leaves_the_view(artifact: Artifact, tiny: Experiment) -> None:
    link = assemble(tiny, {"train": artifact})
    corpus = Artifact("corpus", "k", "digest", artifact.path)
    assert assemble(tiny, {"corpus": corpus}) == link
    assert (link / "model" / "config.json").exists()


def test_editing_the_view_does_not_touch_the_store(artifact: Artifact, tiny: Experiment) -> None:
    link = assemble(tiny, {"train": artifact})
    (link / "model" / "config.json").write_text("mine")
    assert (artifact.path / "config.json").read_text() == "{}"


def test_a_login_is_not_kept_with_the_results(artifact: Artifact, tiny: Experiment) -> None:
    tracking = tiny.tracking.model_copy(update={"uri": "http://u:se@cret@127.0.0.1:1"})
    link = assemble(tiny.model_copy(update={"tracking": tracking}), {"train": artifact})
    kept = (link / "experiment.toml").read_text() + (link / "model" / "experiment.toml").read_text()
    assert 'uri = "http://127.0.0.1:1"' in kept
    assert "cret" not in kept


@pytest.mark.parametrize(
    "text",
    [
        "![t](http://evil/x.png)", "a\n\n![t](http://evil/x.png)", "<img src=x onerror=alert(1)>", "# big\n---\n- one",
        "1. one", "`code` *b* _i_ [a]: x", "| a | b |", "www.evil.example", "a&lt;b>",
    ],
)  # fmt: skip
def test_what_a_model_writes_is_no_markup_of_a_page(text: str) -> None:
    shown = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(quoted(text))
    tags = set(re.findall(r"<(\w+)", shown))
    assert tags <= {"blockquote", "p", "br"}
    words = html.unescape(re.sub(r"<[^>]*>", " ", shown)).split()
    assert words == text.split()


def test_a_folder_of_the_users_is_not_replaced(artifact: Artifact, tiny: Experiment, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    with pytest.raises(UserError, match="is a folder of yours"):
        assemble(tiny, {"train": artifact})
    with pytest.raises(UserError, match="is a folder of yours"):
        Session(tiny)  # before anything is built


def test_what_a_view_uses_is_known_after_its_home_has_moved(
    artifact: Artifact, tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a record of an earlier version, which has the path that the artifact once had."""
    link = assemble(tiny, {"train": artifact})
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    monkeypatch.setenv("DDLM_HOME", str(moved))
    assert in_use() == {moved / "artifacts" / "train" / "k"}
    (moved / link.name / "artifacts.json").write_text(json.dumps({"train": str(artifact.path)}))
    assert in_use() == {moved / "artifacts" / "train" / "k"}


def test_no_view_is_made_of_damaged_artifacts(artifact: Artifact, tiny: Experiment) -> None:
    flip_a_bit(artifact.path / "config.json")
    with pytest.raises(DamageError, match=r"train is damaged: .*config\.json.* --verify"):
        assemble(tiny, {"train": artifact})


@pytest.mark.parametrize("text", ["", "[]", '{"train": 3}'])
def test_where_nobody_knows_what_is_used_nothing_is_collected(artifact: Artifact, tiny: Experiment, text: str) -> None:
    (assemble(tiny, {"train": artifact}) / "artifacts.json").write_text(text)
    with pytest.raises(UserError, match=r"artifacts\.json can't be read, so nobody knows what its experiment uses"):
        in_use()


def test_the_best_sample_has_the_most_known_words_of_its_own() -> None:
    assert best_sample([]) == ""
    copied = {"text": "one two three four five", "word_validity": 1.0, "longest_overlap_words": 5}
    junk = {"text": "xq zzv wrt one two", "word_validity": 0.4, "longest_overlap_words": 1}
    own = {"text": "one two three", "word_validity": 1.0, "longest_overlap_words": 1}
    assert best_sample([copied, junk, own]) == "one two three"
