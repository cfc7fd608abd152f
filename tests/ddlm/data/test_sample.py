"""The bundled stories keep what SAMPLE.md promises."""

import re
from collections import Counter
from itertools import combinations

import pyarrow as pa
import pytest
from pyarrow import parquet

from ddlm.data.corpus import clean
from ddlm.data.sources import SAMPLE

WORD = re.compile(r"[a-z']+")


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return parquet.read_table(SAMPLE)


@pytest.fixture(scope="module")
def stories(table: pa.Table) -> list[str]:
    return table.column("text").to_pylist()


def test_there_are_enough_short_stories(stories: list[str]) -> None:
    assert len(stories) >= 300
    assert all(80 <= len(story.split()) <= 200 for story in stories)


def test_stories_are_clean_ascii_with_an_ending(stories: list[str]) -> None:
    for story in stories:
        assert story.isascii()
        assert clean(story) == story
        assert story[-1] in ".!?\"'"


def test_no_two_stories_are_alike(stories: list[str]) -> None:
    openings = Counter(re.split(r"(?<=[.!?])\s", story)[0] for story in stories)
    assert max(openings.values()) == 1
    words = [WORD.findall(story.lower()) for story in stories]
    runs = [{tuple(text[place : place + 4]) for place in range(len(text) - 3)} for text in words]
    assert max(len(one & other) / min(len(one), len(other)) for one, other in combinations(runs, 2)) < 0.05


def test_few_stories_begin_once_upon_a_time(stories: list[str]) -> None:
    assert sum(story.startswith("Once upon a time") for story in stories) <= len(stories) / 5


def test_provenance_travels_with_the_file(table: pa.Table) -> None:
    assert set(table.column("origin").to_pylist()) == {"ddlm"}
    assert set(table.column("licence").to_pylist()) == {"MIT"}
    assert len(set(table.column("id").to_pylist())) == len(table)
    assert table.schema.metadata[b"licence"] == b"MIT"


def test_the_notes_count_right(stories: list[str]) -> None:
    notes = SAMPLE.with_name("SAMPLE.md").read_text()
    words = [len(story.split()) for story in stories]
    assert f"{len(stories)} short stories" in notes
    assert f"{sum(words):,} words in {sum(map(len, stories)):,} bytes" in notes
    assert f"{min(words)} to {max(words)} words a story" in notes
