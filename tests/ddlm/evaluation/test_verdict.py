"""Scores in words: by fixed rules, and only of what was measured."""

from typing import Any

import pytest

from ddlm.evaluation.verdict import verdict

SCORES: dict[str, Any] = {"bound": "upper", "bits_per_byte": 1.389, "bits_per_byte_stderr": 0.006}


def said(**scores: Any) -> str:
    return " ".join(verdict(SCORES | scores))


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ({}, "Don't expect stories that hold together"),
        ({}, "and this one needs at most 1.39 ± 0.006."),
        ({"bits_per_byte": 1.0}, "Its sentences hold and its stories sometimes do: it needs at most 1.00 ± 0.006"),
        ({"bits_per_byte": 0.85, "bound": "exact", "bits_per_byte_stderr": 0}, "each other: it needs 0.85 bits"),
        ({"word_validity": 0.996}, "Its words are real: 99.6% of them occur in its training stories."),
        ({"word_validity": 0.98}, "Most of its words are real"),
        ({"word_validity": 0.9}, "Too few of its words are real"),
        ({"copied": {"longest_overlap_words": 6, "exact_share": 0.0}}, "It does not copy: the longest run"),
        ({"copied": {"longest_overlap_words": 14}}, "It copies phrases: the longest run"),
        ({"copied": {"longest_overlap_words": 90, "exact_share": 0.25}}, "and 25% of its samples are such stories"),
        ({"copied": {"longest_overlap_words": 6, "searched_stories": 379}}, "It has seen 379 stories: more text"),
        ({"judge": {"samples": {"perplexity": 73.0}, "stories": {"perplexity": 3.0}}}, "far from real stories"),
        ({"judge": {"samples": {"perplexity": 4.0}, "stories": {"perplexity": 3.0}}}, "close to real stories"),
        ({"twin": {"gap_bits_per_byte": 0.42}}, "it needs 0.42 bits per byte more than its left-to-right twin"),
        ({"twin": {"gap_bits_per_byte": -0.1}}, "it needs 0.10 bits per byte fewer than"),
    ],
)  # fmt: skip
def test_a_sentence_for_what_was_measured(scores: dict[str, Any], sentence: str) -> None:
    assert sentence in said(**scores)


def test_how_much_was_searched_is_not_how_much_was_seen() -> None:
    assert "has seen" not in said(
        copied={"longest_overlap_words": 6, "searched_stories": 1000}, settings={"corpus_stories": 1000}
    )


def test_what_was_not_measured_is_not_spoken_of() -> None:
    assert len(verdict(SCORES)) == 1
