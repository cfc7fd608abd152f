import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ddlm.artifacts import Workspace
from ddlm.config import UserError
from ddlm.data import CorpusConfig
from ddlm.data.corpus import build, clean, hold_out, read_source, read_stories, resolve

STORIES = [f"Story number {number} is about a dog.\nIt ended well." for number in range(40)]
Build = Callable[..., Path]


@pytest.fixture
def run(workspace: Callable[..., Workspace]) -> Build:
    """Resolves and builds a corpus; returns the artifact's folder."""

    def make(source: Path | str, **config: Any) -> Path:
        room, section = workspace(), CorpusConfig(source=str(source), **config)
        build(room, corpus=section, source=resolve(section))
        return room.output

    return make


def write_text(path: Path, stories: list[str]) -> Path:
    path.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    return path


def write_jsonl(path: Path, rows: list[Any], field: str = "text") -> Path:
    path.write_text("".join(json.dumps({field: row}) + "\n" for row in rows), encoding="utf-8")
    return path


def report(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return document


def everything(folder: Path) -> list[str]:
    return read_stories(folder, "train") + read_stories(folder, "validation")


class TestCleaning:
    @pytest.mark.parametrize(
        "text",
        [
            "“Look,” she said. ‘It’s 5 o’clock…’",
            "AT&amp;T <b>bold</b> ﬁne ＡＢＣ e\u0301 é ½ 10³",
            "two  spaces, a\ttab,\n\n  an indent",
            "naïve café, Ünïcödé, 日本語, 🙂",
        ],
    )
    def test_clean_text_stays_byte_for_byte(self, text: str) -> None:
        assert clean(text).encode() == text.encode()

    def test_mojibake_is_repaired(self) -> None:
        assert clean("Itâ€™s a cafÃ©.") == "It’s a café."

    def test_whitespace_is_unified(self) -> None:
        assert clean("\ufeff\n One. \r\nTwo.\t\r\rThree.\n\n ") == "One.\nTwo.\n\nThree."


class TestSources:
    def test_the_sample_needs_no_network(self, run: Build) -> None:
        folder = run("sample")
        assert report(folder)["source"] == {"kind": "sample"}
        assert len(everything(folder)) >= 300

    def test_text_between_separators(self, run: Build, tmp_path: Path) -> None:
        stories = [f"{story}\n\nA second paragraph." for story in STORIES]
        folder = run(write_text(tmp_path / "stories.txt", stories))
        assert sorted(everything(folder)) == sorted(stories)

    def test_text_with_a_story_a_line(self, run: Build, tmp_path: Path) -> None:
        lines = [story.replace("\n", " ") for story in STORIES]
        (tmp_path / "stories.txt").write_text("\n\n".join(lines) + "\n")
        assert sorted(everything(run(tmp_path / "stories.txt"))) == sorted(lines)

    def test_separators_may_share_a_line_with_text(self, run: Build, tmp_path: Path) -> None:
        (tmp_path / "stories.txt").write_text("<|endoftext|>".join(STORIES))
        assert sorted(everything(run(tmp_path / "stories.txt"))) == sorted(STORIES)

    def test_jsonl(self, run: Build, tmp_path: Path) -> None:
        path = write_jsonl(tmp_path / "stories.jsonl", STORIES, field="story")
        assert sorted(everything(run(path, text_field="story"))) == sorted(STORIES)

    def test_parquet(self, run: Build, tmp_path: Path) -> None:
        parquet.write_table(pa.table({"n": range(40), "text": STORIES}), tmp_path / "stories.parquet")
        assert sorted(everything(run(tmp_path / "stories.parquet"))) == sorted(STORIES)

    def test_a_folder_with_splits(self, run: Build, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "train-00000-of-00002.jsonl", STORIES[:10])
        write_text(tmp_path / "train-00001-of-00002.txt", STORIES[10:30])
        write_text(tmp_path / "validation.txt", STORIES[30:])
        (tmp_path / "README.md").write_text("not text to train on")
        folder = run(tmp_path)
        assert read_stories(folder, "train") == STORIES[:30]
        assert read_stories(folder, "validation") == STORIES[30:]

    def test_a_folder_without_splits_is_one_text(self, run: Build, tmp_path: Path) -> None:
        write_text(tmp_path / "a.txt", STORIES[:20])
        write_text(tmp_path / "b.txt", STORIES[20:])
        assert sorted(everything(run(tmp_path))) == sorted(STORIES)

    def test_slices_take_the_first_rows(self, run: Build, tmp_path: Path) -> None:
        write_text(tmp_path / "train.txt", STORIES[:30])
        write_text(tmp_path / "validation.txt", STORIES[30:])
        folder = run(tmp_path, train_split="train[:12]", validation_split="validation[2:5]")
        assert read_stories(folder, "train") == STORIES[:12]
        assert read_stories(folder, "validation") == STORIES[32:35]

    def test_other_split_names(self, run: Build, tmp_path: Path) -> None:
        write_text(tmp_path / "learn.txt", STORIES[:30])
        write_text(tmp_path / "test.txt", STORIES[30:])
        folder = run(tmp_path, train_split="learn", validation_split="test")
        assert len(read_stories(folder, "validation")) == 10

    def test_an_edited_file_is_another_source(self, tmp_path: Path) -> None:
        config = CorpusConfig(source=str(write_text(tmp_path / "stories.txt", STORIES)))
        before = resolve(config)
        assert resolve(config) == before
        write_text(tmp_path / "stories.txt", STORIES[1:])
        assert resolve(config) != before


class TestPlainReading:
    """`read_source`: a file that is no artifact, for commands that take text."""

    def test_a_folder_is_measured_on_its_validation_split(self, tmp_path: Path) -> None:
        write_text(tmp_path / "train.txt", [*STORIES, STORIES[0] + "  "])
        assert sorted(read_source(tmp_path)) == sorted(STORIES)
        write_text(tmp_path / "valid.txt", ["A cafÃ©."])
        assert read_source(tmp_path) == ["A café."]
        assert read_source(tmp_path / "train.txt", limit=2) == STORIES[:2]

    def test_text_may_be_in_another_column(self, tmp_path: Path) -> None:
        parquet.write_table(pa.table({"story": STORIES}), tmp_path / "stories.parquet")
        assert read_source(tmp_path / "stories.parquet", text_field="story") == STORIES

    def test_broken_rows_are_counted_where_nothing_is_left(self, tmp_path: Path) -> None:
        (tmp_path / "bad.jsonl").write_text("{not json\n[broken\n")
        with pytest.raises(UserError, match=r"no stories in it \(2 rows, 0 empty and 2 broken\)"):
            read_source(tmp_path / "bad.jsonl")

    def test_a_missing_or_empty_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"nothing.txt: no such file"):
            read_source(tmp_path / "nothing.txt")
        (tmp_path / "empty.txt").touch()
        with pytest.raises(UserError, match=r"empty.txt: no stories in it"):
            read_source(tmp_path / "empty.txt")


class TestCounting:
    def test_every_row_is_counted_once(self, run: Build, tmp_path: Path) -> None:
        rows = [*STORIES[:20], "", " \n", STORIES[3], STORIES[4] + " ", 17, None, "half a \ud83d pair"]
        folder = run(write_jsonl(tmp_path / "stories.jsonl", rows))
        assert report(folder)["read"] == {"train": {"rows": 27, "empty": 2, "broken": 3, "duplicates": 2}}
        assert sum(report(folder)["stories"].values()) == 20
        assert sum(report(folder)["text_bytes"].values()) == sum(len(story.encode()) for story in STORIES[:20])

    def test_undecodable_rows_of_parquet_are_broken(self, run: Build, tmp_path: Path, caplog) -> None:
        raw = pa.array([*(story.encode() for story in STORIES), b"caf\xe9"], pa.binary()).view(pa.string())
        parquet.write_table(pa.table({"text": raw}), tmp_path / "stories.parquet")
        folder = run(tmp_path / "stories.parquet")
        assert report(folder)["read"]["train"]["broken"] == 1
        assert sorted(everything(folder)) == sorted(STORIES)
        assert "1 of 41 train rows were left out: 0 empty, 1 broken" in caplog.text

    def test_equal_stories_give_equal_bytes_wherever_they_come_from(self, run: Build, tmp_path: Path) -> None:
        one = run(write_text(tmp_path / "stories.txt", STORIES))
        two = run(write_jsonl(tmp_path / "other.jsonl", STORIES))
        for name in ("train.parquet", "validation.parquet", "report.json"):
            assert (one / name).read_bytes() == (two / name).read_bytes()


class TestSplitting:
    def test_validation_keeps_a_story_that_is_in_both(self, run: Build, tmp_path: Path) -> None:
        write_text(tmp_path / "train.txt", STORIES[:30])
        write_text(tmp_path / "validation.txt", STORIES[25:])
        folder = run(tmp_path)
        assert read_stories(folder, "train") == STORIES[:25]
        assert read_stories(folder, "validation") == STORIES[25:]
        assert report(folder)["read"]["train"]["duplicates"] == 5

    def test_held_out_stories_depend_on_their_text_alone(self, run: Build, tmp_path: Path) -> None:
        one = run(write_text(tmp_path / "one.txt", STORIES), validation_fraction=0.3)
        shuffled = random.Random(1).sample(STORIES, len(STORIES))
        two = run(write_text(tmp_path / "two.txt", shuffled), validation_fraction=0.3)
        held_out = set(read_stories(one, "validation"))
        assert held_out == set(read_stories(two, "validation"))
        assert 4 <= len(held_out) <= 20
        assert held_out.isdisjoint(read_stories(one, "train"))

    def test_one_story_is_held_out_however_small_the_fraction(self, run: Build, tmp_path: Path) -> None:
        folder = run(write_text(tmp_path / "stories.txt", STORIES), validation_fraction=1e-9)
        assert len(read_stories(folder, "validation")) == 1
        assert len(read_stories(folder, "train")) == 39

    def test_the_held_out_fraction_is_kept(self) -> None:
        stories = ((random.Random(number).randbytes(16), str(number)) for number in range(4000))
        counts = Counter(split for split, _ in hold_out(stories, CorpusConfig(validation_fraction=0.1)))
        assert counts.total() == 4000
        assert abs(counts["validation"] - 400) < 80

    def test_reading_stops_at_the_limit(self, run: Build) -> None:
        folder = run("sample")
        assert read_stories(folder, "train", 3) == read_stories(folder, "train")[:3]
        assert read_stories(folder, "train", 0) == []


class TestBadInput:
    """Each is one line that names what is wrong."""

    @pytest.fixture
    def expect_refusal(self, run: Build) -> Callable[..., None]:
        def check(source: Path | str, match: str, **config: Any) -> None:
            with pytest.raises(UserError, match=match) as fault:
                run(source, **config)
            assert "\n" not in str(fault.value)

        return check

    @pytest.mark.parametrize("source", ["stories.txt", "stories", "data/stories.txt", "/nowhere/at/all", "../x/y", ""])
    def test_a_missing_file(self, expect_refusal: Callable[..., None], source: str) -> None:
        expect_refusal(source or "nowhere.parquet", "no such file; give a file or folder")

    def test_an_unknown_kind_of_file(self, expect_refusal: Callable[..., None], tmp_path: Path) -> None:
        (tmp_path / "stories.csv").write_text("text\nhello\n")
        expect_refusal(tmp_path / "stories.csv", r"no .parquet, .jsonl, .txt file there")
        expect_refusal(tmp_path, r"no .parquet, .jsonl, .txt file there")

    def test_no_text_column(self, expect_refusal: Callable[..., None], tmp_path: Path) -> None:
        parquet.write_table(pa.table({"n": [1], "story": ["x"]}), tmp_path / "a.parquet")
        expect_refusal(
            tmp_path / "a.parquet", r"no column 'text'; it has n, story; name .* --text-field, or corpus\.text_field"
        )
        expect_refusal(write_jsonl(tmp_path / "a.jsonl", STORIES, "story"), "no column 'text'; it has story")
        (tmp_path / "b.jsonl").write_text("[1, 2]\n")
        expect_refusal(tmp_path / "b.jsonl", "no column 'text'; it has none")

    @pytest.mark.parametrize("name", ["empty.txt", "empty.jsonl"])
    def test_an_empty_file(self, expect_refusal: Callable[..., None], tmp_path: Path, name: str) -> None:
        (tmp_path / name).touch()
        expect_refusal(tmp_path / name, "0 stories to train on and 0 to validate with, out of 0 rows")

    def test_an_empty_parquet_table(self, expect_refusal: Callable[..., None], tmp_path: Path) -> None:
        parquet.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
        expect_refusal(tmp_path / "a.parquet", "0 stories to train on and 0 to validate with")

    def test_three_stories(self, expect_refusal: Callable[..., None], tmp_path: Path) -> None:
        path = write_text(tmp_path / "stories.txt", STORIES[:3])
        expect_refusal(path, "2 stories to train on and 1 to validate with, out of 3 rows .* wanted at least 8 and 1")

    def test_an_empty_validation_split(self, expect_refusal: Callable[..., None], tmp_path: Path) -> None:
        write_text(tmp_path / "train.txt", STORIES)
        (tmp_path / "validation.txt").write_text("\n \n")
        expect_refusal(tmp_path, "40 stories to train on and 0 to validate with")

    @pytest.mark.parametrize("name", ["junk.txt", "junk.parquet"])
    def test_binary_junk(self, expect_refusal: Callable[..., None], tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(random.Random(0).randbytes(20_000))
        expect_refusal(
            tmp_path / name, r"junk.txt: story 1 is not UTF-8 text|junk.parquet: not a readable parquet file"
        )

    def test_binary_junk_in_jsonl(self, expect_refusal: Callable[..., None], tmp_path: Path) -> None:
        (tmp_path / "junk.jsonl").write_bytes(random.Random(0).randbytes(20_000))
        expect_refusal(tmp_path / "junk.jsonl", r"0 stories to train on .* broken: no text, or with NUL")

    def test_zeros_are_no_text(self, expect_refusal: Callable[..., None], tmp_path: Path) -> None:
        (tmp_path / "zeros.txt").write_bytes(bytes(1000))
        expect_refusal(tmp_path / "zeros.txt", "story 1 is not UTF-8 text")

    def test_a_truncated_parquet_file(self, expect_refusal: Callable[..., None], tmp_path: Path) -> None:
        parquet.write_table(pa.table({"text": STORIES}), tmp_path / "a.parquet")
        (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
        expect_refusal(tmp_path / "a.parquet", "not a readable parquet file")

    def test_invalid_utf8(self, expect_refusal: Callable[..., None], tmp_path: Path) -> None:
        lines = [story.replace("\n", " ").encode() for story in STORIES]
        (tmp_path / "latin.txt").write_bytes(b"\n".join([*lines[:10], b"caf\xe9", *lines[10:]]))
        expect_refusal(tmp_path / "latin.txt", "story 11 is not UTF-8 text; convert the file to UTF-8")

    @pytest.mark.parametrize("split", ["train[:10%]", "train[", "train[5]", ""])
    def test_a_split_that_is_no_slice(self, expect_refusal: Callable[..., None], split: str) -> None:
        expect_refusal("sample", "wanted a name with row numbers, for example", train_split=split)


def test_a_closing_quote_that_lost_a_byte_comes_back() -> None:
    assert clean("She said, â€œhiâ€ and ran.") == "She said, “hi” and ran."
