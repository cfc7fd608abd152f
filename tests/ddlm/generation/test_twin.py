"""The pipeline of an autoregressive twin: one order of writing, exact scores."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from ddlm.diffusion import SamplingConfig
from ddlm.evaluation import EvaluationConfig, likelihood
from ddlm.evaluation.subject import Subject, gap_scores, rows_from_texts
from ddlm.evaluation.sweep import Sweep
from ddlm.generation import DiffusionPipeline
from ddlm.model.folder import ModelFolder
from ddlm.model.transformer import Denoiser

Build = Callable[..., DiffusionPipeline]
WARM = SamplingConfig(temperature=1.0, top_p=1.0)


@pytest.fixture
def twin(build: Build) -> DiffusionPipeline:
    causal = build(attention="causal")
    sizes = {"vocab_size": causal.tokenizer.vocab_size, "seq_len": causal.seq_len, "end_id": causal.tokenizer.end_id}
    network = Denoiser(causal.model.config, **sizes, is_autoregressive=True)
    network.load_state_dict(causal.model.state_dict())
    with torch.no_grad():
        network.output.weight[causal.tokenizer.end_id] *= 3  # so that texts end, some early and some late
    folder = ModelFolder.of(network, end_id=causal.tokenizer.end_id, objective={"kind": "autoregressive"})
    return DiffusionPipeline(network.eval(), causal.tokenizer, folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"unmasking": "confidence", "num_sampling_steps": 3},
        {"unmasking": "random", "ends": "last"},
        {"unmasking": "remdm_cap", "remask_share": 0.1},
        {"unmasking": "threshold", "threshold": 0.5, "block_size": 8, "cache": "off"},
    ],
)
def test_it_writes_from_left_to_right_whatever_policy_is_asked_for(
    twin: DiffusionPipeline, settings: dict[str, object]
) -> None:
    asked = SamplingConfig.model_validate({"temperature": 1.0, "top_p": 1.0, **settings})
    made, plain = (twin.generate("The dog", sampling=sampling, num_samples=3) for sampling in (asked, WARM))
    assert made.unmasking == "left_to_right"
    assert made.samples == plain.samples
    colder = asked.model_copy(update={"temperature": 0.3})
    assert twin.generate("The dog", sampling=colder, num_samples=3).samples != plain.samples


@pytest.mark.parametrize("prompt", ["The dog", "", "He ran to the park"])
def test_at_temperature_0_each_token_is_the_likeliest_after_those_before_it(
    twin: DiffusionPipeline, prompt: str
) -> None:
    tokens, end_id = twin.tokenizer.encode(prompt), twin.tokenizer.end_id
    made = twin.generate(prompt, sampling=SamplingConfig(temperature=0.0))
    while len(tokens) < twin.seq_len:
        row = torch.tensor([tokens + [twin.tokenizer.mask_id] * (twin.seq_len - len(tokens))])
        logits = twin.model(row)[0, len(tokens)]
        logits[list(twin.tokenizer.unwritable_ids)] = -math.inf
        if int(logits.argmax()) == end_id:
            break
        tokens.append(int(logits.argmax()))
    assert list(made.samples[0].tokens) == tokens


def test_a_seed_gives_the_same_text_alone_and_in_a_batch(twin: DiffusionPipeline) -> None:
    prompts = ["The dog", "", "He ran to the", "They were happy"]
    made = twin.generate_batch(prompts, sampling=WARM, seed=4)
    assert made.samples[0] == twin.generate("The dog", sampling=WARM, seed=4).samples[0]
    assert made.samples == twin.generate_batch(prompts, sampling=WARM, seed=4, rows_at_once=2).samples
    assert made.samples != twin.generate_batch(prompts, sampling=WARM, seed=5).samples


def test_a_step_writes_one_token_and_texts_that_end_early_spare_the_rest(twin: DiffusionPipeline) -> None:
    lengths = []
    for seed in range(12):
        made = twin.generate(sampling=WARM, seed=seed)
        lengths.append(len(made.samples[0].tokens))
        assert made.calls == min(lengths[-1] + 1, twin.seq_len)
    assert min(lengths) + 1 < twin.seq_len
    exact = twin.generate("The dog", sampling=WARM, length=100).samples[0]
    assert len(exact.tokens) == len(twin.tokenizer.encode("The dog")) + 100


def test_frames_go_from_left_to_right(twin: DiffusionPipeline) -> None:
    frames = list(twin.stream("The dog", sampling=WARM, length=12))
    assert [frame.masked for frame in frames] == list(range(12, -1, -1))
    for frame in frames[1:-1]:
        assert [span.state for span in frame.spans if span.state in ("new", "masked")] in (
            ["new", "masked"],
            ["masked"],
        ), "a piece of a character shows nothing"
    for before, after in pairwise(frames):
        assert before.masked == after.masked + 1


def test_gaps_are_filled_and_the_rest_stays(twin: DiffusionPipeline) -> None:
    encode = twin.tokenizer.encode
    before, behind = encode("The dog"), encode(" ran home.")
    for sample in twin.infill("The dog ___[3] ran home.", num_samples=4, sampling=WARM).samples:
        assert len(sample.tokens) == len(before) + 3 + len(behind)
        assert list(sample.tokens[: len(before)]) == before
        assert list(sample.tokens[-len(behind) :]) == behind
        assert twin.tokenizer.end_id not in sample.tokens
    assert twin.infill("The dog ___ ran home.", sampling=WARM).samples[0].text.endswith(" ran home.")


@pytest.mark.parametrize("text", ["The dog ran.", "The dog ran to the park. " * 8])
def test_a_score_is_exact_and_the_one_of_the_evaluation(twin: DiffusionPipeline, text: str) -> None:
    score = twin.score(text, seed=1)
    rows, story = rows_from_texts(twin.tokenizer, [text], twin.seq_len)
    exact = likelihood.exact(twin.model.at, rows, seed=0, story=story)
    assert len(rows) == 1 + (len(text) > 100)
    assert score.bound == "exact"
    assert score.nll_nats_stderr == 0
    assert score.nll_nats == pytest.approx(exact.nll_nats)
    assert score.bits_per_byte == pytest.approx(exact.bits_per_byte)
    assert twin.score(text, masks=2, seed=9) == score


def test_a_score_is_the_sum_over_positions_given_all_before(twin: DiffusionPipeline) -> None:
    tokens = twin.tokenizer.encode_story("The dog ran.")
    row = torch.tensor([tokens + [twin.tokenizer.end_id] * (twin.seq_len - len(tokens))])
    nats = -twin.model(row).log_softmax(-1).gather(2, row[..., None]).sum()
    score = twin.score("The dog ran.")
    assert score.nll_nats * score.tokens == pytest.approx(float(nats.detach()), rel=1e-5)


def test_a_saved_twin_is_still_one(twin: DiffusionPipeline, tmp_path: Path) -> None:
    twin.save_pretrained(tmp_path / "copy")
    again = DiffusionPipeline.from_pretrained(tmp_path / "copy", precision="float32")
    assert again.is_autoregressive
    assert again.generate("The", sampling=WARM, seed=2).samples == twin.generate("The", sampling=WARM, seed=2).samples
    assert again.score("The dog ran.") == twin.score("The dog ran.")


@pytest.mark.parametrize(("layout", "is_paired"), [("story", True), ("packed", True), ("mixed", False)])
def test_the_gap_to_a_masked_model_is_paired_over_stories_or_rows_that_are_cut_alike(
    build: Build, twin: DiffusionPipeline, layout: str, is_paired: bool
) -> None:
    stories = [f"The dog ran to the park and saw {'a big red ball. ' * count}" for count in range(1, 9)] * 5
    twin.config = twin.config.model_copy(update={"layout": "story" if layout == "story" else "packed"})
    own_layout = "packed" if layout == "packed" else "story"
    evaluation, sweep = EvaluationConfig(masks_per_row=2), Sweep()
    subject = Subject.of(build(), stories, own_layout, evaluation, 0, sweep)
    own = subject.likelihood()
    found = gap_scores(subject, own, twin)["twin"]
    exact = Subject.of(twin, stories, twin.config.layout, evaluation, 0, sweep).likelihood()
    assert found["gap_bits_per_byte"] == pytest.approx(own.bits_per_byte - exact.bits_per_byte)
    assert ("gap_interval" in found) == is_paired
    if is_paired:
        low, high = found["gap_interval"]
        assert low < found["gap_bits_per_byte"] < high
