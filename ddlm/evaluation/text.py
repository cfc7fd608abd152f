"""What samples look like beside real stories: overlap with references, variety, length, and how much is copied."""

import re
import string
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU

PUNCTUATION = string.punctuation + "“”‘’«»–—…"
SEPARATOR = 0
"""Stands between the stories of a corpus; words have the ids 1, 2, …"""


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU-4, 0 … 100, each hypothesis against its own reference (sacrebleu, 13a tokens)."""
    return float(BLEU(force=True).corpus_score(hypotheses, [references]).score)


def bleu_free(samples: Sequence[str], stories: Sequence[str]) -> float:
    """Mean sentence BLEU-4, 0 … 100, of each sample against all the stories (as seed S3's Ref-BLEU)."""
    return _mean(_sentence_bleu(sample, stories) for sample in samples)


def self_bleu(samples: Sequence[str]) -> float:
    """Mean sentence BLEU-4, 0 … 100, of each sample against the other ones: 100 means that they are all the same."""
    return _mean(
        _sentence_bleu(sample, [*samples[:index], *samples[index + 1 :]]) for index, sample in enumerate(samples)
    )


def _sentence_bleu(hypothesis: str, references: Sequence[str]) -> float:
    return float(BLEU(effective_order=True, force=True).sentence_score(hypothesis, references).score)


def words_of(text: str) -> list[str]:
    """Words in lower case, without the punctuation around them."""
    raw = text.lower().replace("’", "'").split()
    return [word for word in [word.strip(PUNCTUATION) for word in raw] if word]


def distinct(texts: Sequence[str], n: int) -> float:
    """Different word n-grams as a share of all of them."""
    grams = [tuple(words[i : i + n]) for words in map(words_of, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / max(len(grams), 1)


def split_at_word(story: str, prompt_words: int) -> tuple[str, str]:
    """A story's first words, and what follows them. Of a story shorter than twice that, the first half of its words."""
    word_ends = [match.end() for match in re.finditer(r"\S+", story)]
    cut = word_ends[min(prompt_words, len(word_ends) // 2) - 1] if len(word_ends) > 1 else 0
    return story[:cut], story[cut:]


@dataclass(frozen=True)
class Overlap:
    """A run of consecutive words of a sample that stands somewhere in the corpus."""

    words: int
    text: str


@dataclass(frozen=True, eq=False)
class CorpusIndex:
    """The words of a corpus, four bytes each.

    ids: word -> 1, 2, …
    stream: int32, all stories one after the other, SEPARATOR behind each.
    """

    ids: dict[str, int]
    stream: np.ndarray

    @classmethod
    def of(cls, stories: Iterable[str]) -> "CorpusIndex":
        ids: defaultdict[str, int] = defaultdict(count(1).__next__)
        pieces = [np.array([SEPARATOR], dtype=np.int32)]
        for story in stories:
            numbers = [ids[word] for word in words_of(story)]
            pieces.append(np.array([*numbers, SEPARATOR], dtype=np.int32))
        return cls(dict(ids), np.concatenate(pieces))

    @property
    def unknown_id(self) -> int:
        return len(self.ids) + 1

    def encode(self, words: Sequence[str]) -> list[int]:
        return [self.ids.get(word, self.unknown_id) for word in words]


def judge_copying(
    samples: Sequence[str], training_stories: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """How much of the samples is the corpus's: for each of them, and over all of them.

    The words that some training story has, and the longest run of words that a sample shares with one story. Case and
    punctuation are ignored.
    """
    corpus = CorpusIndex.of(training_stories)
    overlaps = longest_overlaps(samples, corpus)
    longest = max(overlaps, key=lambda overlap: overlap.words)
    each = [
        {"word_validity": word_validity([sample], corpus), "longest_overlap_words": overlap.words}
        for sample, overlap in zip(samples, overlaps, strict=True)
    ]
    in_overlaps = sum(overlap.words for overlap in overlaps)
    copied = {
        "longest_overlap_words": longest.words,
        "longest_overlap_text": longest.text,
        "mean_overlap_words": in_overlaps / len(samples),
        "overlap_share": in_overlaps / max(sum(len(words_of(sample)) for sample in samples), 1),
        "searched_stories": len(training_stories),
    }
    return each, {"word_validity": word_validity(samples, corpus), "copied": copied}


def word_validity(samples: Sequence[str], corpus: CorpusIndex) -> float:
    """Share of the samples' words that occur in the corpus; 0 where the samples have no words at all."""
    words = [word for sample in samples for word in words_of(sample)]
    return sum(word in corpus.ids for word in words) / max(len(words), 1)


def longest_overlaps(samples: Sequence[str], corpus: CorpusIndex) -> list[Overlap]:
    """For each sample its longest run of words that one story of the corpus has too.

    Runs of n words become runs of n + 1: at each length only the places survive whose run occurs on both sides, and
    equal runs share a class number. After three or four words hardly any place of the corpus is left.
    """
    words = [word for sample in samples for word in [*words_of(sample), ""]]
    stream = np.array(corpus.encode(words), dtype=np.int64)
    owner = np.repeat(np.arange(len(samples)), [len(words_of(sample)) + 1 for sample in samples])
    places, corpus_places = np.arange(len(stream)), np.arange(len(corpus.stream))
    classes, corpus_classes = stream, corpus.stream
    best = [Overlap(0, "")] * len(samples)
    length = 0
    while True:
        shared = np.intersect1d(classes, corpus_classes)
        keep, corpus_keep = np.isin(classes, shared), np.isin(corpus_classes, shared)
        places, corpus_places = places[keep], corpus_places[corpus_keep]
        if not places.size:
            return best
        length += 1
        for sample, first in zip(*np.unique(owner[places], return_index=True), strict=True):
            best[sample] = Overlap(length, " ".join(words[places[first] : places[first] + length]))
        classes = _extend(np.searchsorted(shared, classes[keep]), stream[places + length], corpus)
        corpus_classes = _extend(
            np.searchsorted(shared, corpus_classes[corpus_keep]), corpus.stream[corpus_places + length], corpus
        )


def _extend(classes: np.ndarray, next_ids: np.ndarray, corpus: CorpusIndex) -> np.ndarray:
    return np.asarray(classes * (corpus.unknown_id + 1) + next_ids)


def _mean(values: Iterable[float]) -> float:
    collected = list(values)
    return sum(collected) / max(len(collected), 1)
