"""Files of stories are told from others, and splits by the names that people give them."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from ddlm.config import UserError
from ddlm.data.files import split_files, split_of, story_files
from ddlm.data.sources import read_files


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.txt", "train"),
        ("train_0.txt", "train"),
        ("train-00000-of-00001.parquet", "train"),
        ("Training.TXT", "train"),
        ("TinyStoriesV2-GPT4-train.txt", "train"),
        ("train/0.txt", "train"),
        ("valid.txt", "validation"),
        ("validation_0.txt", "validation"),
        ("VAL.jsonl", "validation"),
        ("stories.dev.txt", "validation"),
        ("TinyStoriesV2-GPT4-valid.txt", "validation"),
        ("data/validation-00000-of-00001.parquet", "validation"),
        ("test.txt", "test"),
        ("stories.txt", None),
        ("constrained.txt", None),
        ("valley.txt", None),
        ("latest.txt", None),
    ],
)
def test_a_name_says_which_split_a_file_is_of(name: str, split: str | None) -> None:
    assert split_of(Path(name), "train", "validation") == split


def test_a_configured_name_comes_first() -> None:
    assert split_of(Path("valid-clean.txt"), "valid-clean", "validation") == "train"


def folder_of(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("Once.\n")
    return folder


def names(paths: list[Path], root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in paths]


def test_what_is_no_story_is_never_read(tmp_path: Path) -> None:
    others = ("README.txt", "LICENSE-MIT.txt", "requirements.txt", "._a.txt", ".b.txt", "c.md")
    root = folder_of(tmp_path / ".cache", "a.txt", "B.TXT", *others)
    assert names(story_files(root), root) == ["B.TXT", "a.txt"]


def test_folders_within_are_read_where_there_is_nothing_above(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "data/train-0.txt", "data/validation-0.txt", ".git/train.txt", "README.txt")
    found = split_files(root)
    assert (names(found.train, root), names(found.validation, root)) == (
        ["data/train-0.txt"],
        ["data/validation-0.txt"],
    )


def test_a_line_says_what_was_taken_for_what(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "train.txt", "valid.txt", "test.txt", "notes.txt")
    said = split_files(root).describe(root)
    assert said == "train: train.txt; validation: valid.txt; left out: notes.txt, test.txt"


def test_folders_beside_stories_are_said_to_be_left_out(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "stories.txt", "data/train-0.txt", ".cache/a.txt", "data/README.txt")
    assert split_files(root).describe(root) == "train: stories.txt; left out: data/train-0.txt"


def test_a_test_split_validates_where_there_is_no_other(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "train.txt", "test.txt")
    assert names(split_files(root).validation, root) == ["test.txt"]


def test_files_without_a_split_are_trained_on(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "one.txt", "two.txt", "dev.txt")
    found = split_files(root)
    assert (names(found.train, root), names(found.validation, root)) == (["one.txt", "two.txt"], ["dev.txt"])


def test_a_folder_of_a_validation_split_alone_is_all_there_is(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "valid.txt")
    assert split_files(root).named() == {"train": [root / "valid.txt"]}


def test_a_folder_without_stories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.parquet, \.jsonl, \.txt file there"):
        story_files(folder_of(tmp_path, "README.txt", "data.csv"))


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_type_that_holds_text_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    texts = ["Once.", "A café."]
    parquet.write_table(pa.table({"text": pa.array(texts).cast(kind)}), tmp_path / "a.parquet")
    assert list(read_files([tmp_path / "a.parquet"], "text")) == texts


def test_a_column_of_numbers_is_refused_by_its_type(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="column 'text' is int64, not text"):
        list(read_files([tmp_path / "a.parquet"], "text"))


def test_a_first_line_may_describe_the_others(tmp_path: Path) -> None:
    lines = [{"meta": 1}, {"text": "Once."}, {"text": "Twice."}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert list(read_files([tmp_path / "a.jsonl"], "text")) == [None, "Once.", "Twice."]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r", "\n\n"])
def test_lines_of_json_may_end_as_on_any_system(tmp_path: Path, ending: str) -> None:
    lines = ['\ufeff{"text": "Once."}', '{"text": "A café."}', ""]
    (tmp_path / "a.jsonl").write_bytes(ending.join(lines).encode())
    assert [text for text in read_files([tmp_path / "a.jsonl"], "text") if text] == ["Once.", "A café."]


def test_blank_lines_are_no_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"broken\n\n")
    assert list(read_files([tmp_path / "a.jsonl"], "text")) == [b"broken", ""]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_on_any_system(tmp_path: Path, ending: str) -> None:
    (tmp_path / "a.txt").write_bytes(ending.join(["Once.", "Twice.", ""]).encode())
    assert [str(text).strip() for text in read_files([tmp_path / "a.txt"], "text")] == ["Once.", "Twice."]
