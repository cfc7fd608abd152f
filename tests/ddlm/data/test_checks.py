"""Unusual corpora are told of, ordinary ones are not."""

from collections import Counter

import pytest

from ddlm.data.checks import FEWEST_WORDS, Words, objections, script_of, total_variation

CLEAN = Counter(rows=100, empty=0, broken=0, duplicates=0)
STORY = "once upon a time there was a cat and the cat had a hat " * 100


def words(*texts: str) -> Words:
    found = Words()
    for text in texts:
        found.add(text)
    return found


def objections_to(train: Words, validation: Words, **counts: int) -> list[str]:
    return list(objections({"train": CLEAN | Counter(counts)}, {"train": train, "validation": validation}))


def test_an_ordinary_corpus_is_passed_over() -> None:
    assert objections_to(words(STORY), words(STORY), empty=3, duplicates=7) == []


@pytest.mark.parametrize("counts", [{"broken": 1}, {"empty": 6, "duplicates": 5}])
def test_rows_that_were_left_out_are_counted(counts: dict[str, int]) -> None:
    (line,) = objections_to(words(STORY), words(STORY), **counts)
    assert f"{sum(counts.values())} of 100 train rows were left out" in line


def test_two_scripts_in_one_split_are_named() -> None:
    mixed = words(STORY, "жила была кошка и у кошки была шляпа " * 100)
    (line,) = objections_to(mixed, words(STORY))
    assert "train stories mix scripts: latin 59%, cyrillic 41%" in line


def test_splits_of_different_sources_are_told_apart_where_there_are_words_enough() -> None:
    other = "def return import class lambda yield pass none true false " * 120
    (line,) = objections_to(words(STORY), words(other))
    assert "the splits use different words (total variation 1.00)" in line
    few = " ".join(other.split()[: FEWEST_WORDS - 1])
    assert objections_to(words(STORY), words(few)) == []


def test_total_variation_is_that_of_the_two_distributions() -> None:
    assert total_variation(Counter(a=1, b=1), Counter(a=2, c=2)) == pytest.approx(0.5)
    assert total_variation(Counter(a=3), Counter(a=5)) == 0


@pytest.mark.parametrize(("letter", "script"), [("a", "LATIN"), ("é", "LATIN"), ("ж", "CYRILLIC"), ("猫", "CJK")])
def test_a_letters_script_is_its_names_first_word(letter: str, script: str) -> None:
    assert script_of(letter) == script
