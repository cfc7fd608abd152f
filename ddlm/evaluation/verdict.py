"""What the scores say in words: a few sentences by fixed rules, for whoever reads no table."""

from collections.abc import Iterator, Mapping
from typing import Any

from ddlm.evaluation.measures import at, with_error

REAL, MOSTLY_REAL = 0.995, 0.97
"""Shares of known words."""
SHORT_RUN, LONG_RUN = 10, 20
"""Words of the longest copied run: sentences of such stories share about ten, whoever wrote them."""
HOLDS, FALLS_APART = 0.9, 1.2
"""Bits per byte of TinyStories: texts of the models that were read hold together below the first, and not from one
sentence to the next above the second."""
FEW_STORIES = 5_000
"""Training stories, under which what is missing is text."""


def verdict(scores: Mapping[str, Any]) -> list[str]:
    """Sentences, the most telling first. What was not measured is not spoken of."""
    return [*_words(scores), *_coherence(scores), *_copying(scores), *_data(scores), *_twin(scores)]


def _words(scores: Mapping[str, Any]) -> Iterator[str]:
    share = scores.get("word_validity")
    if share is None:
        return
    told = f"{share:.1%} of them occur in its training stories"
    if share >= REAL:
        yield f"Its words are real: {told}."
    else:
        yield f"{'Most' if share >= MOSTLY_REAL else 'Too few'} of its words are real: {told}."


def _coherence(scores: Mapping[str, Any]) -> Iterator[str]:
    ratio = _against_real_stories(scores)
    if ratio is not None:
        holds = "close to" if ratio < 2 else "some way from" if ratio < 6 else "far from"
        yield f"Its texts are {holds} real stories: to the judge their perplexity is {ratio:.1f} times as high."
    elif scores["bits_per_byte"] >= FALLS_APART:
        yield (
            f"Don't expect stories that hold together: models of TinyStories need less than {FALLS_APART:g} bits per "
            f"byte for that, and this one needs {_bits(scores)}."
        )
    elif scores["bits_per_byte"] <= HOLDS:
        yield f"Its sentences should follow from each other: it needs {_bits(scores)} bits per byte."
    else:
        yield f"Its sentences hold and its stories sometimes do: it needs {_bits(scores)} bits per byte."


def _against_real_stories(scores: Mapping[str, Any]) -> float | None:
    own, real = (at(scores, f"judge.{name}.perplexity") for name in ("samples", "stories"))
    return float(own / real) if own and real else None


def _bits(scores: Mapping[str, Any]) -> str:
    error = scores.get("bits_per_byte_stderr")
    number = with_error("{:.2f}", scores["bits_per_byte"], error) if error else f"{scores['bits_per_byte']:.2f}"
    return f"at most {number}" if scores["bound"] == "upper" else number


def _copying(scores: Mapping[str, Any]) -> Iterator[str]:
    longest, exact = at(scores, "copied.longest_overlap_words"), at(scores, "copied.exact_share") or 0
    if longest is None:
        return
    told = f"the longest run of words that a sample shares with a training story has {longest} words"
    if exact or longest >= LONG_RUN:
        yield f"It copies: {told}{f', and {exact:.0%} of its samples are such stories' if exact else ''}."
    else:
        yield f"It {'does not copy' if longest <= SHORT_RUN else 'copies phrases'}: {told}."


def _data(scores: Mapping[str, Any]) -> Iterator[str]:
    stories, most = at(scores, "copied.searched_stories"), at(scores, "settings.corpus_stories")
    if stories is not None and stories < FEW_STORIES and stories != most:  # of more stories no more are looked at
        yield f"It has seen {stories:,} stories: more text would help it more than anything else."


def _twin(scores: Mapping[str, Any]) -> Iterator[str]:
    gap = at(scores, "twin.gap_bits_per_byte")
    if gap is not None:
        which = "more" if gap > 0 else "fewer"
        yield f"On the same stories it needs {abs(gap):.2f} bits per byte {which} than its left-to-right twin."
