"""Text scores against hand counts and brute force."""

import math
import random

import numpy as np
import pytest

from ddlm.evaluation import text

STORIES = [
    "Once upon a time a small fox lived in a wood. The fox had a red ball.",
    "Tim and Sue went to the park. They saw a big dog!",
]


def longest_by_force(sample, stories):
    """The longest run of the sample's words in one story, by trying all of them."""
    words = text.words_of(sample)
    inside = [f" {' '.join(text.words_of(story))} " for story in stories]
    runs = [words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    return max((len(run) for run in runs if any(f" {' '.join(run)} " in story for story in inside)), default=0)


def test_bleu_is_100_for_the_reference_itself_and_small_for_another_story():
    assert text.bleu(STORIES, STORIES) == pytest.approx(100)
    assert text.bleu(STORIES, STORIES[::-1]) < 10


def test_free_bleu_clips_a_word_by_the_reference_that_has_it_most_often():
    once, twice = text.bleu_free(["sun sun"], ["sun moon", "sun star"]), text.bleu_free(["sun sun"], ["sun sun"])
    assert once < twice == pytest.approx(100)


def test_self_bleu_tells_equal_samples_from_different_ones():
    assert text.self_bleu([STORIES[0]] * 3) == pytest.approx(100)
    assert text.self_bleu(STORIES) < 20
    assert text.self_bleu(STORIES[:1]) == 0


def test_words_lose_case_and_the_punctuation_around_them():
    assert text.words_of("“Don’t go!” said Tim — then... he ran.") == [
        "don't",
        "go",
        "said",
        "tim",
        "then",
        "he",
        "ran",
    ]


def test_distinct_counts_different_n_grams_over_all_of_them():
    assert text.distinct(["a b a b"], 1) == 2 / 4
    assert text.distinct(["a b a b"], 2) == 2 / 3
    assert text.distinct(["a b", "a b"], 2) == 1 / 2
    assert text.distinct(["a"], 2) == 0


def test_repetition_counts_what_the_same_text_has_said_before():
    assert text.repetition_rate(["a b a b a"], n=2) == 2 / 4
    assert text.repetition_rate(["a b", "a b"], n=2) == 0
    assert text.repetition_rate(["a a a a", "b c d e f g"], n=2) == 2 / 8
    assert text.repetition_rate(["", "a b c"]) == 0


def test_unigram_entropy_is_of_each_text_alone_and_then_averaged():
    assert text.unigram_entropy_nats(["a b c d"]) == pytest.approx(math.log(4))
    assert text.unigram_entropy_nats(["a a b B.", "c", ""]) == pytest.approx(math.log(2) / 3)
    assert text.unigram_entropy_nats(["a a a b"]) == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))


def of_lengths(*lengths):
    return [" ".join(["word"] * length) for length in lengths]


def test_equal_lengths_do_not_diverge():
    lengths = of_lengths(*range(1, 21))
    assert text.length_divergence_nats(lengths[::-1], lengths) == 0


def test_length_divergence_is_that_of_ten_smoothed_bins():
    """Ten stories of 1 … 10 words fill a bin each, and two samples of ten words the last bin."""
    story_shares, sample_shares = [1.5 / 15] * 10, [0.5 / 7] * 9 + [2.5 / 7]
    expected = sum(ours * math.log(ours / theirs) for ours, theirs in zip(sample_shares, story_shares, strict=True))
    measured = text.length_divergence_nats(of_lengths(10, 10), of_lengths(*range(1, 11)))
    assert measured == pytest.approx(expected)


def test_empty_samples_and_equally_long_stories_have_a_length_divergence_too():
    """All stories are at the one edge there is, so that shorter samples are in the other bin."""
    measured = text.length_divergence_nats(["", "a"], of_lengths(5, 5, 5))
    short, long = 2.5 / 3, 0.5 / 3
    assert measured == pytest.approx(short * math.log(short / (0.5 / 4)) + long * math.log(long / (3.5 / 4)))


def test_vocabulary_overlap_counts_each_word_of_the_samples_once():
    assert text.vocabulary_overlap(["fox fox flurb", "Dog!", ""], STORIES) == 2 / 3
    assert text.vocabulary_overlap(["", "..."], STORIES) == 0


def test_total_variation_is_half_the_distance_between_the_two_distributions_of_words():
    assert text.total_variation(["a a a b"], ["a b b c"]) == pytest.approx((0.5 + 0.25 + 0.25) / 2)
    assert text.total_variation(STORIES, STORIES[::-1]) == 0
    assert text.total_variation(["x y"], STORIES) == pytest.approx(1)
    assert text.total_variation([""], STORIES) == pytest.approx(1)


def test_a_description_has_every_measure_under_its_name_and_bears_empty_texts():
    described = text.describe(["a b a b a b a", ""], STORIES)
    assert set(described) == {
        "self_bleu", "distinct_1", "distinct_2", "distinct_3", "repetition_4", "unigram_entropy_nats",
        "length_divergence_nats", "vocabulary",
    }  # fmt: skip
    assert (described["distinct_1"], described["distinct_3"], described["repetition_4"]) == (2 / 7, 2 / 5, 2 / 4)
    assert described["vocabulary"] == {"overlap": 1 / 2, "total_variation": pytest.approx(1 - 5 / 29)}


def test_mauve_tells_features_of_the_same_kind_from_others():
    pytest.importorskip("mauve")
    rng = np.random.default_rng(0)
    near, same, far = (rng.normal(centre, 1, (60, 4)).astype(np.float32) for centre in (0, 0, 20))
    assert text.mauve(near, same) > 0.9
    assert text.mauve(near, far) < 0.1


@pytest.mark.parametrize("words", [1, 3, 7])
def test_a_prompt_is_the_first_words_and_the_rest_is_kept_to_the_letter(words):
    prompt, rest = text.split_at_word(STORIES[0], words)
    assert prompt + rest == STORIES[0]
    assert len(prompt.split()) == words
    assert rest.startswith(" ")


def test_a_short_story_is_split_in_its_middle_and_one_word_can_not_be_continued():
    assert text.split_at_word("Tim ran home fast.", 20) == ("Tim ran", " home fast.")
    assert text.split_at_word("Tim", 20) == ("", "Tim")


def test_word_validity_is_the_share_of_words_that_the_corpus_has():
    corpus = text.CorpusIndex.of(STORIES)
    assert text.word_validity(["The FOX, went flurb!"], corpus) == 3 / 4
    assert text.word_validity(["", "..."], corpus) == 0


def test_copying_is_told_for_each_sample_and_over_all():
    each, total = text.judge_copying(["The fox had a flurb ball.", "a fox", ""], STORIES)
    assert [one["longest_overlap_words"] for one in each] == [4, 1, 0]
    assert [one["word_validity"] for one in each] == [5 / 6, 1, 0]
    assert total["word_validity"] == 7 / 8
    assert total["copied"] == {
        "longest_overlap_words": 4,
        "longest_overlap_text": "the fox had a",
        "mean_overlap_words": pytest.approx(5 / 3),
        "overlap_share": 5 / 8,
        "exact_share": 0,
        "ngram_8_share": 0,
        "searched_stories": 2,
    }


def test_an_exact_copy_may_differ_in_case_and_whitespace_alone():
    copied = [STORIES[0].upper().replace(" ", "\n "), STORIES[1]]
    assert text.exact_copies([*copied, STORIES[0].replace("fox", "hen"), ""], [*STORIES, ""]) == 2 / 4
    assert text.judge_copying(copied, STORIES)[1]["copied"]["exact_share"] == 1


def test_n_grams_of_the_corpus_are_counted_wherever_they_stand():
    corpus = text.CorpusIndex.of(["a b c d", "x y z"])
    assert text.ngram_overlap(["a b c flurb b c d", "c d x y"], corpus, n=3) == 2 / 7
    assert text.ngram_overlap(["a b c flurb b c d", "c d x y"], corpus, n=1) == 10 / 11
    assert text.ngram_overlap(["a b c d x y z"], corpus, n=5) == 0
    assert text.ngram_overlap(["", "a b"], corpus) == 0


@pytest.mark.parametrize("seed", range(10))
def test_n_gram_overlap_agrees_with_sets_of_n_grams(seed):
    rng = random.Random(seed)
    stories = [" ".join(rng.choices("abc", k=rng.randint(0, 12))) for _ in range(4)]
    samples = [" ".join(rng.choices("abcz", k=rng.randint(0, 12))) for _ in range(4)]
    for n in (1, 2, 3, 8):
        inside, ours = (
            [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
            for texts in (stories, samples)
        )
        share = sum(gram in set(inside) for gram in ours) / max(len(ours), 1)
        assert text.ngram_overlap(samples, text.CorpusIndex.of(stories), n) == share


def test_the_longest_overlap_is_found_verbatim():
    corpus = text.CorpusIndex.of(STORIES)
    found = text.longest_overlaps(["Then they saw a big dog and ran.", "flurb", STORIES[0]], corpus)
    assert found[0] == text.Overlap(5, "they saw a big dog")
    assert found[1] == text.Overlap(0, "")
    assert found[2].words == len(STORIES[0].split())


def test_an_overlap_crosses_neither_stories_nor_samples():
    corpus = text.CorpusIndex.of(["a b", "c d", "x y"])
    found = text.longest_overlaps(["b c", "a", "b", "", "y a b x y"], corpus)
    assert [overlap.words for overlap in found] == [1, 1, 1, 0, 2]


@pytest.mark.parametrize("seed", range(20))
def test_overlaps_agree_with_brute_force(seed):
    rng = random.Random(seed)
    letters = "abcd"[: rng.randint(1, 4)]
    stories = [" ".join(rng.choices(letters, k=rng.randint(0, 30))) for _ in range(6)]
    samples = [" ".join(rng.choices(letters + "z", k=rng.randint(0, 25))) for _ in range(6)]
    found = text.longest_overlaps(samples, text.CorpusIndex.of(stories))
    assert [overlap.words for overlap in found] == [longest_by_force(sample, stories) for sample in samples]
    for overlap, sample in zip(found, samples, strict=True):
        assert longest_by_force(overlap.text, [sample]) == overlap.words
        assert longest_by_force(overlap.text, stories) == overlap.words
