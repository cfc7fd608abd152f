"""Text scores against hand counts and brute force."""

import random

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
        "searched_stories": 2,
    }


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
