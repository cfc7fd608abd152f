"""What samples look like beside real stories: overlap with references, variety, length, and how much is copied."""

import math
import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU

PUNCTUATION = string.punctuation + "“”‘’«»–—…"
SEPARATOR = 0
"""Stands between the stories of a corpus; words have the ids 1, 2, …"""
REPETITION_WORDS = 4
COPIED_WORDS = 8
LENGTH_BINS = 10


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU-4, 0 … 100, each hypothesis against its own reference (sacrebleu, 13a tokens)."""
    return float(BLEU(force=True).corpus_score(hypotheses, [references]).score)


def bleu_free(samples: Sequence[str], stories: Sequence[str]) -> float:
    """Mean sentence BLEU-4, 0 … 100, of each sample against all the stories (as seed S3's Ref-BLEU)."""
    return _mean(_sentence_bleu(sample, stories) for sample in samples)


def self_bleu(samples: Sequence[str]) -> float:
    """Mean sentence BLEU-4, 0 … 100, of each sample against the other ones: 100 means that they are all the same.

    A sample that is alone has 0.
    """
    if len(samples) < 2:
        return 0.0
    return _mean(
        _sentence_bleu(sample, [*samples[:index], *samples[index + 1 :]]) for index, sample in enumerate(samples)
    )


def _sentence_bleu(hypothesis: str, references: Sequence[str]) -> float:
    return float(BLEU(effective_order=True, force=True).sentence_score(hypothesis, references).score)


def words_of(text: str) -> list[str]:
    """Words in lower case, without the punctuation around them."""
    raw = text.lower().replace("’", "'").split()
    return [word for word in [word.strip(PUNCTUATION) for word in raw] if word]


def describe(samples: Sequence[str], stories: Sequence[str]) -> dict[str, Any]:
    """How varied the samples are, and how their words and lengths are spread beside those of the stories."""
    return {
        "self_bleu": self_bleu(samples),
        **{f"distinct_{n}": distinct(samples, n) for n in (1, 2, 3)},
        f"repetition_{REPETITION_WORDS}": repetition_rate(samples),
        "unigram_entropy_nats": unigram_entropy_nats(samples),
        "length_divergence_nats": length_divergence_nats(samples, stories),
        "vocabulary": {
            "overlap": vocabulary_overlap(samples, stories),
            "total_variation": total_variation(samples, stories),
        },
    }


def distinct(texts: Sequence[str], n: int) -> float:
    """Different word n-grams as a share of all of them."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / max(len(grams), 1)


def repetition_rate(texts: Sequence[str], n: int = REPETITION_WORDS) -> float:
    """Share of all word n-grams that have occurred before in the same text."""
    grams = [_grams(text, n) for text in texts]
    total = sum(map(len, grams))
    return (total - sum(len(set(of_text)) for of_text in grams)) / max(total, 1)


def unigram_entropy_nats(texts: Sequence[str]) -> float:
    """Mean over the texts of the entropy of a text's own words, in nats; a text without words has 0."""
    return _mean(entropy_nats(Counter(words_of(text)).values()) for text in texts)


def entropy_nats(counts: Iterable[int]) -> float:
    """The entropy of the distribution that these counts are proportional to, in nats; 0 where there are none."""
    collected = list(counts)
    total = sum(collected)
    return sum(count / total * math.log(total / count) for count in collected)


def length_divergence_nats(samples: Sequence[str], stories: Sequence[str]) -> float:
    """KL(samples || stories) of the number of words, in nats.

    The bins are the stories' ten deciles, fewer where many stories are equally long, and every count is one half
    larger, so that no bin is empty. Chance alone gives n samples about 9 / (2 n) nats.
    """
    lengths, of_stories = ([len(words_of(text)) for text in texts] for texts in (samples, stories))
    edges = np.unique(np.quantile(of_stories, np.arange(1, LENGTH_BINS) / LENGTH_BINS))
    ours, theirs = (_smoothed_shares(group, edges) for group in (lengths, of_stories))
    return float(np.sum(ours * np.log(ours / theirs)))


def _smoothed_shares(values: Sequence[int], edges: np.ndarray) -> np.ndarray:
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) + 0.5
    return np.asarray(counts / counts.sum())


def vocabulary_overlap(samples: Sequence[str], stories: Sequence[str]) -> float:
    """Share of the samples' different words that the stories have; 0 where the samples have no words at all."""
    ours, theirs = set(_word_counts(samples)), set(_word_counts(stories))
    return len(ours & theirs) / max(len(ours), 1)


def total_variation(samples: Sequence[str], stories: Sequence[str]) -> float:
    """Total variation, 0 … 1, between the two distributions of words; 1 where the samples have no words at all."""
    ours, theirs = _word_counts(samples), _word_counts(stories)
    of_ours, of_theirs = max(ours.total(), 1), max(theirs.total(), 1)
    return sum(max(number / of_theirs - ours[word] / of_ours, 0) for word, number in theirs.items())


def mauve(sample_features: np.ndarray, story_features: np.ndarray, *, seed: int = 0) -> float | None:
    """MAUVE, 0 … 1, of two sets of feature rows; None where the package mauve-text is not installed.

    1: a judge's features of the samples fall into the same clusters as those of the stories. Only numbers of equally
    many samples and the same judge compare; a few dozen samples say little.
    Source: Pillutla et al., MAUVE, 2021, with the package's own settings.
    """
    try:
        from mauve import compute_mauve
    except ModuleNotFoundError:
        return None
    return float(compute_mauve(p_features=sample_features, q_features=story_features, seed=seed, verbose=False).mauve)


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
        "exact_share": exact_copies(samples, training_stories),
        f"ngram_{COPIED_WORDS}_share": ngram_overlap(samples, corpus),
        "searched_stories": len(training_stories),
    }
    return each, {"word_validity": word_validity(samples, corpus), "copied": copied}


def word_validity(samples: Sequence[str], corpus: CorpusIndex) -> float:
    """Share of the samples' words that occur in the corpus; 0 where the samples have no words at all."""
    words = [word for sample in samples for word in words_of(sample)]
    return sum(word in corpus.ids for word in words) / max(len(words), 1)


def exact_copies(samples: Sequence[str], stories: Iterable[str]) -> float:
    """Share of the samples that are a story, up to case and whitespace; an empty sample is no copy."""
    known = {" ".join(story.lower().split()) for story in stories} - {""}
    return _mean(float(" ".join(sample.lower().split()) in known) for sample in samples)


def ngram_overlap(samples: Sequence[str], corpus: CorpusIndex, n: int = COPIED_WORDS) -> float:
    """Share of the samples' word n-grams that stand somewhere in the corpus; 0 where no sample has n words."""
    total = sum(len(_grams(sample, n)) for sample in samples)
    shared = next(islice(shared_runs(samples, corpus), n - 1, None), np.empty(0))
    return len(shared) / max(total, 1)


def longest_overlaps(samples: Sequence[str], corpus: CorpusIndex) -> list[Overlap]:
    """For each sample its longest run of words that one story of the corpus has too."""
    words = _joined(samples)
    owner = np.repeat(np.arange(len(samples)), [len(words_of(sample)) + 1 for sample in samples])
    best = [Overlap(0, "")] * len(samples)
    for length, places in enumerate(shared_runs(samples, corpus), start=1):
        for sample, first in zip(*np.unique(owner[places], return_index=True), strict=True):
            best[sample] = Overlap(length, " ".join(words[places[first] : places[first] + length]))
    return best


def shared_runs(samples: Sequence[str], corpus: CorpusIndex) -> Iterator[np.ndarray]:
    """For 1, 2, … words: the places in the samples, joined, where so many words begin that one story has too.

    Runs of n words become runs of n + 1: at each length only the places survive whose run occurs on both sides, and
    equal runs share a class number. After three or four words hardly any place of the corpus is left.
    """
    stream = np.array(corpus.encode(_joined(samples)), dtype=np.int64)
    places, corpus_places = np.arange(len(stream)), np.arange(len(corpus.stream))
    classes, corpus_classes = stream, corpus.stream
    for length in count(1):
        shared = np.intersect1d(classes, corpus_classes)
        keep, corpus_keep = np.isin(classes, shared), np.isin(corpus_classes, shared)
        places, corpus_places = places[keep], corpus_places[corpus_keep]
        if not places.size:
            return
        yield places
        classes = _extend(np.searchsorted(shared, classes[keep]), stream[places + length], corpus)
        corpus_classes = _extend(
            np.searchsorted(shared, corpus_classes[corpus_keep]), corpus.stream[corpus_places + length], corpus
        )


def _joined(samples: Sequence[str]) -> list[str]:
    """All words, and behind each sample one that no corpus has."""
    return [word for sample in samples for word in [*words_of(sample), ""]]


def _extend(classes: np.ndarray, next_ids: np.ndarray, corpus: CorpusIndex) -> np.ndarray:
    return np.asarray(classes * (corpus.unknown_id + 1) + next_ids)


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = words_of(text)
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _word_counts(texts: Sequence[str]) -> Counter[str]:
    return Counter(word for text in texts for word in words_of(text))


def _mean(values: Iterable[float]) -> float:
    collected = list(values)
    return sum(collected) / max(len(collected), 1)
