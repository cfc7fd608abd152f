"""The real stories behind the figures can be picked out of public files."""

import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pyarrow import parquet

ROOT = Path(__file__).parents[2]
STORIES = ["Once upon a time\nthere was a cat.", "A dog ran.\n\nIt was happy.", "“Hello,” said the bird.", "The end."]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import select_stories

    return select_stories


@pytest.fixture
def lists(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What names three of the stories: two to train on, one to validate with."""
    for split, texts in {"train": STORIES[:2], "validation": STORIES[2:3]}.items():
        script.write_split(tmp_path / "original" / f"{split}.parquet", texts)
    monkeypatch.setattr(script, "LISTS", tmp_path / "lists")
    script.make_lists(tmp_path / "original")
    return tmp_path / "lists"


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["select_stories.py", *map(str, arguments)])
    script.main()


def test_stories_are_found_in_the_lists_order_whatever_their_line_breaks(
    script: ModuleType, lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    public = tmp_path / "public.jsonl"
    copies = [STORIES[3], STORIES[2], STORIES[1], STORIES[0].replace("\n", "\n\n")]
    public.write_text("".join(json.dumps({"text": text}) + "\n" for text in copies), encoding="utf-8")
    run(script, monkeypatch, public, "--out", tmp_path / "out")
    assert parquet.read_table(tmp_path / "out" / "train.parquet")["text"].to_pylist() == [copies[3], STORIES[1]]
    train, validation = capsys.readouterr().out.splitlines()
    assert train == "train: 2 of 2 stories found; not the text behind the figures"
    assert validation == "validation: 1 of 1 stories found; the very text behind the published figures"


def test_what_is_missing_is_counted_and_several_sources_are_read(
    script: ModuleType, lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("one.jsonl", STORIES[0]), ("two.jsonl", STORIES[2])):
        (tmp_path / name).write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    run(script, monkeypatch, tmp_path / "one.jsonl", tmp_path / "two.jsonl", "--out", tmp_path / "out")
    assert "train: 1 of 2 stories found; not the text" in capsys.readouterr().out


def test_a_source_that_is_not_there_is_refused_in_a_line(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(script, monkeypatch, tmp_path / "nothing.txt", "--out", tmp_path / "out")
    assert "no such file" in capsys.readouterr().err.splitlines()[-1]


def test_the_committed_lists_are_those_of_the_real_stories(script: ModuleType) -> None:
    if not (folder := os.environ.get("DDLM_TINYSTORIES")):
        pytest.skip("DDLM_TINYSTORIES names no folder with real stories")
    _, stories = script.read_list("validation")
    assert [script.digest(text) for text in script.stories_of(f"{folder}/validation.parquet")] == stories
