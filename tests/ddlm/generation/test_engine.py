"""Blocks, layouts, precisions and scores."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from ddlm.config import UserError
from ddlm.diffusion import SamplingConfig
from ddlm.generation import DiffusionPipeline

Build = Callable[..., DiffusionPipeline]


@pytest.mark.parametrize("model", [{"attention": "causal"}, {"attention": "block_causal", "block_size": 4}])
def test_where_nothing_ahead_is_seen_keys_are_reused_and_the_text_stays(build: Build, model: dict[str, object]) -> None:
    pipeline = build(**model)
    plain = SamplingConfig(num_sampling_steps=24, block_size=8, cache="off", top_p=1.0)
    reused = plain.model_copy(update={"cache": "exact"})
    prompts = ["Once upon a time there was", "The", ""]
    assert pipeline.writing([], reused, 0, 1).engine.reuse is not None
    wanted = pipeline.generate_batch(prompts, sampling=plain)
    assert pipeline.generate_batch(prompts, sampling=reused).samples == wanted.samples
    longer = pipeline.generate(length=100, sampling=plain).samples
    assert pipeline.generate(length=100, sampling=reused).samples == longer


def test_a_network_that_sees_everything_reuses_keys_only_when_told_that_this_is_an_approximation(build: Build) -> None:
    pipeline = build()

    def reuse(cache: str, block_size: int | None) -> object:
        sampling = SamplingConfig(cache=cache, block_size=block_size)  # type: ignore[arg-type]
        return pipeline.writing([], sampling, 0, 1).engine.reuse

    assert reuse("exact", 8) is reuse("off", 8) is None
    assert reuse("approximate", 8) is not None
    made = pipeline.generate(sampling=SamplingConfig(cache="approximate", block_size=8, num_sampling_steps=12))
    assert pipeline.tokenizer.mask_id not in made.samples[0].tokens


def test_rows_full_of_stories_have_no_tail_to_foresee(build: Build) -> None:
    assert build(layout="packed").suited(SamplingConfig()).ends == "free"
    assert build(layout="packed").suited(SamplingConfig(ends="last")).ends == "last"
    assert build().suited(SamplingConfig()).ends == "drawn"


@pytest.mark.parametrize("time_conditioning", [False, True])
def test_bfloat16_writes_with_a_copy_and_judges_with_the_original(build: Build, time_conditioning: bool) -> None:
    pipeline = build(precision="bfloat16", time_conditioning=time_conditioning)
    made = pipeline.generate("The dog", sampling=SamplingConfig(num_sampling_steps=2), length=8)
    assert made.precision == "bfloat16"
    assert len(made.samples[0].tokens) == len(pipeline.tokenizer.encode("The dog")) + 8
    assert pipeline.writer.embedding.weight.dtype == torch.bfloat16
    assert pipeline.model.embedding.weight.dtype == torch.float32


def test_a_uniform_model_scores_log_v_at_every_position_of_a_row(build: Build) -> None:
    pipeline = build()
    nn.init.zeros_(pipeline.model.head_weight)
    row_nats = pipeline.seq_len * math.log(pipeline.tokenizer.vocab_size)
    exact = "q" * pipeline.seq_len
    assert len(pipeline.tokenizer.encode(exact)) == pipeline.seq_len
    for text in ("The dog ran.", "The dog ran to the park. " * 8, exact):
        score = pipeline.score(text)
        tokens = len(pipeline.tokenizer.encode(text))
        rows = -(-tokens // pipeline.seq_len)
        assert score.tokens == tokens + (text != exact)
        assert score.nll_nats * score.tokens == pytest.approx(rows * row_nats, rel=1e-5)
        assert score.bits_per_byte == pytest.approx(rows * row_nats / math.log(2) / len(text), rel=1e-5)
        assert score.nll_nats_stderr == pytest.approx(0, abs=1e-4)
        assert score.bound == "upper"
    with pytest.raises(UserError, match="empty text"):
        pipeline.score("")
