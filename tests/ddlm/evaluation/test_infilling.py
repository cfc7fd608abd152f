"""The middle of a story: where it is, who writes it, and what the numbers say of it."""

import json
import os
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ddlm.config import UserError
from ddlm.data.corpus import iterate_stories
from ddlm.diffusion import SamplingConfig
from ddlm.evaluation import infilling
from ddlm.evaluation.infilling import Gap, middle_sentences, score_infilling, write_gaps
from ddlm.generation import DiffusionPipeline
from ddlm.model.folder import ModelFolder
from ddlm.model.transformer import Denoiser

SAMPLING = SamplingConfig(unmasking="confidence", num_sampling_steps=4, temperature=1.0, top_p=1.0)
STORIES = [
    "One sentence only.",
    "The dog ran. He saw a cat. They were sad.",
    "A gap ___ stands here. It is no story. So it is left out.",
    'Sue was sad.\n\n"Why?" asked Tom. "I lost it." He got it back! They were happy.',
    "It was a big day. " + "The sun was big and the dog was happy. " * 20,
]


@pytest.fixture(scope="module")
def pipeline(tiny_model):
    return DiffusionPipeline.from_pretrained(tiny_model, precision="float32")


def opinionated(pipeline, *, is_autoregressive):
    """A network of random weights, to which every token that it sees matters, with the pipeline's tokenizer."""
    attention = "causal" if is_autoregressive else "bidirectional"
    architecture = pipeline.config.architecture.model_copy(update={"attention": attention})
    sizes = {"vocab_size": pipeline.model.vocab_size, "seq_len": pipeline.seq_len, "end_id": pipeline.tokenizer.end_id}
    torch.manual_seed(0)
    model = Denoiser(architecture, **sizes, is_autoregressive=is_autoregressive).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight.data, std=1.5 * weight.shape[-1] ** -0.5)
    objective = {"kind": "autoregressive" if is_autoregressive else "masked"}
    folder = ModelFolder.of(model, end_id=pipeline.tokenizer.end_id, objective=objective)
    return DiffusionPipeline(model, pipeline.tokenizer, folder)


class Counting:
    """A judge for whom a text costs a nat for each letter e, and a token is a word."""

    name = "counting"

    def score(self, texts):
        return SimpleNamespace(
            nll_nats=sum(text.count("e") for text in texts) / sum(len(text.split()) for text in texts)
        )


def test_the_gap_is_the_middle_sentence_of_the_first_stories_that_have_one_and_fit(pipeline):
    assert middle_sentences(STORIES, pipeline, 9) == [
        Gap("The dog ran.", " He saw a cat.", " They were sad."),
        Gap('Sue was sad.\n\n"Why?" asked Tom.', ' "I lost it."', " He got it back! They were happy."),
    ]
    assert len(middle_sentences(STORIES, pipeline, 1)) == 1


def test_no_story_with_a_middle_is_refused(pipeline):
    with pytest.raises(UserError, match="none of 1 stories has 3 sentences in fewer than 64 tokens"):
        middle_sentences(STORIES[:1], pipeline, 5)


def test_so_many_tokens_are_written_as_the_sentence_had_and_the_sides_stay(pipeline):
    gaps = middle_sentences(STORIES, pipeline, 2)
    encode = pipeline.tokenizer.encode
    texts = [gap.filled(f"___[{gap.tokens(pipeline.tokenizer)}]") for gap in gaps]
    samples = pipeline.infill_batch(texts, sampling=SAMPLING, seed=3).samples
    for gap, sample, sentence in zip(gaps, samples, write_gaps(pipeline, gaps, SAMPLING, 3), strict=True):
        assert len(sample.tokens) == len(encode(gap.filled(gap.original)))
        assert sample.tokens[: len(encode(gap.before))] == tuple(encode(gap.before))
        assert sample.tokens[-len(encode(gap.after)) :] == tuple(encode(gap.after))
        assert sample.text == gap.filled(sentence)


def test_a_text_of_a_batch_is_filled_as_it_would_be_alone(pipeline):
    texts = ["The dog ___[4] sad.", "Sue ___[2] big and the dog ___[3]."]
    batch = pipeline.infill_batch(texts, sampling=SAMPLING, seed=5).samples
    assert batch[0].text == pipeline.infill(texts[0], sampling=SAMPLING, seed=5).samples[0].text
    assert batch[1].text == pipeline.infill(texts[1], num_samples=2, sampling=SAMPLING, seed=5).samples[1].text


def test_the_twin_sees_what_stands_before_the_gap_alone(pipeline):
    gap = Gap("The dog ran.", " He saw a big cat.", " They were sad.")
    other = Gap(gap.before, gap.original, " It was big.")
    for is_autoregressive in (True, False):
        writer = opinionated(pipeline, is_autoregressive=is_autoregressive)
        first, second = (write_gaps(writer, [each], SAMPLING, 0) for each in (gap, other))
        assert (first == second) == is_autoregressive


def test_the_document_has_its_keys_whoever_takes_part(pipeline):
    settings = {"count": 2, "sampling": SAMPLING, "seed": 0}
    alone = score_infilling(pipeline, STORIES, **settings)
    everyone = score_infilling(
        pipeline, STORIES, **settings, judge=Counting(), twin=opinionated(pipeline, is_autoregressive=True)
    )
    assert set(alone) == set(everyone) == {"stories", "gap_tokens", "model", "twin", "examples", "settings"}
    assert alone["twin"] is None
    assert alone["model"]["judge"] is None
    assert everyone["model"] | {"judge": None} == alone["model"]
    assert set(everyone["twin"]["judge"]) == set(everyone["model"]["judge"])
    assert set(everyone["model"]["judge"]) == {"judge", "nll_nats", "true_nll_nats", "change_percent"}
    assert [set(example) for example in everyone["examples"]] == [{"before", "original", "after", "model", "twin"}] * 2
    assert json.loads(json.dumps(everyone)) == everyone


def test_numbers_of_known_sentences(pipeline, monkeypatch):
    monkeypatch.setattr(infilling, "write_gaps", lambda *_: [" He saw a cat.", " Tree eel."])
    scores = score_infilling(pipeline, STORIES, count=2, sampling=SAMPLING, seed=0, judge=Counting())["model"]
    assert scores["exact_matches"] == 0.5
    assert 0 < scores["bleu"] < 100
    assert scores["judge"]["nll_nats"] == pytest.approx(15 / 25)
    assert scores["judge"]["true_nll_nats"] == pytest.approx(11 / 26)
    assert scores["judge"]["change_percent"] == pytest.approx(100 * (15 / 25) / (11 / 26) - 100)
    monkeypatch.setattr(infilling, "write_gaps", lambda *_: [" He saw a cat.", ' "I lost it."'])
    perfect = score_infilling(pipeline, STORIES, count=2, sampling=SAMPLING, seed=0, judge=Counting())["model"]
    assert (perfect["bleu"], perfect["exact_matches"]) == (pytest.approx(100), 1)
    assert perfect["judge"]["change_percent"] == 0


def test_middles_of_real_stories_begin_and_end_between_tokens(pipeline):
    folder = os.environ.get("DDLM_TINYSTORIES")
    if not folder:
        pytest.skip("no real stories: set DDLM_TINYSTORIES to a folder with validation.parquet")
    stories = list(islice(iterate_stories(Path(folder), "validation"), 300))
    gaps = middle_sentences(stories, SimpleNamespace(tokenizer=pipeline.tokenizer, seq_len=512), 300)
    assert len(gaps) > 200
    assert {gap.filled(gap.original) for gap in gaps} <= set(stories)
    for gap in gaps:
        assert gap.tokens(pipeline.tokenizer) == len(pipeline.tokenizer.encode(gap.original))
        assert gap.original.strip()[-1] in ".!?\"'”’"
