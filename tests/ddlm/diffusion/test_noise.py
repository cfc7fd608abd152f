"""What a step masks: exact counts, stratified times, and the same masks however the batch is shared out."""

import math

import pytest
import torch

from ddlm.diffusion import ObjectiveConfig
from ddlm.diffusion.noise import Noise, complement, draw_noise, random_length, smallest, stratified_times

SHARED_OUT = [(ranks, parts) for ranks in (1, 2, 4, 8) for parts in (1, 2, 3) if 24 % (ranks * parts) == 0]


def draw(config: ObjectiveConfig | None = None, *, step: int = 3, rows: slice | None = None) -> Noise:
    return draw_noise(config or ObjectiveConfig(), seed=5, step=step, batch_size=24, seq_len=16, rows=rows)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_there_is_one_time_in_each_interval_of_the_global_batch(batch_size: int) -> None:
    for step in range(20):
        t = stratified_times(seed=0, step=step, batch_size=batch_size)
        assert ((t > 0) & (t < 1)).all()
        assert (t * batch_size).long().sort().values.tolist() == list(range(batch_size))


def test_times_are_uniform_within_their_intervals_and_over_rows() -> None:
    times = torch.stack([stratified_times(seed=1, step=step, batch_size=8) for step in range(1000)])
    shift = (times * 8) % 1
    assert float(shift.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(shift.var()) == pytest.approx(1 / 12, abs=0.002)
    assert times.mean(0).tolist() == pytest.approx([0.5] * 8, abs=0.04)


def test_a_row_has_exactly_the_masks_that_its_count_says() -> None:
    for schedule in ("linear", "cosine", "geometric"):
        noise = draw(ObjectiveConfig.model_validate({"schedule": schedule}))
        assert torch.equal(noise.is_masked.sum(1), noise.count)
        assert noise.count.min() >= 1


def test_counts_of_a_stratified_batch_are_as_even_as_can_be() -> None:
    count = draw_noise(ObjectiveConfig(), seed=0, step=0, batch_size=160, seq_len=16).count
    assert count.bincount().tolist() == [0] + [10] * 16


def pearson(seen: torch.Tensor) -> float:
    """The statistic against even frequencies, in standard deviations above its mean, the degrees of freedom."""
    expected, freedom = seen.sum() / len(seen), len(seen) - 1
    return float((((seen - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_every_set_of_positions_is_equally_likely(k: int) -> None:
    noise = draw_noise(ObjectiveConfig(), seed=0, step=0, batch_size=10_000, seq_len=5)
    number = (noise.is_masked[noise.count == k] * 2 ** torch.arange(5)).sum(1)
    seen = number.bincount(minlength=32)
    assert abs(pearson(seen[seen > 0].double())) < 3
    assert (seen > 0).sum() == math.comb(5, k)


def test_a_row_is_masked_afresh_at_every_step() -> None:
    masks = torch.stack([draw(step=step).is_masked[0] for step in range(500)])
    assert abs(pearson(masks.sum(0).double())) < 3
    assert len(masks.unique(dim=0)) > 400


def test_equal_words_are_told_apart_by_position() -> None:
    word = torch.tensor([[7, 7, 7, 7], [9, 7, 7, 2**32 - 1]])
    expected = [[True, True, False, False], [True, True, True, False]]
    assert smallest(word, torch.tensor([2, 3])).tolist() == expected


@pytest.mark.parametrize("complementary", [False, True])
@pytest.mark.parametrize(("ranks", "parts"), SHARED_OUT)
def test_shares_of_ranks_and_accumulation_parts_make_up_the_whole(ranks: int, parts: int, complementary: bool) -> None:
    config = ObjectiveConfig(schedule="cosine", complementary=complementary, truncation_share=0.5)
    whole = draw(config)
    size = 24 // (ranks * parts)
    shares = [draw(config, rows=slice(start, start + size)) for start in range(0, 24, size)]
    assert torch.equal(torch.cat([share.is_masked for share in shares]), whole.is_masked)
    for share in shares:
        assert torch.equal(share.count, whole.count)
        assert (share.length, share.truncated) == (whole.length, whole.truncated)


def test_strided_shares_give_the_rows_of_the_whole() -> None:
    assert torch.equal(draw(rows=slice(1, None, 4)).is_masked, draw().is_masked[1::4])


def test_another_seed_step_or_row_has_other_masks() -> None:
    base = draw().is_masked
    assert not torch.equal(base, draw(step=4).is_masked)
    other = draw_noise(ObjectiveConfig(), seed=6, step=3, batch_size=24, seq_len=16)
    assert not torch.equal(base, other.is_masked)
    assert len(base.unique(dim=0)) > 15


def test_the_noise_of_a_step_is_what_it_always_was() -> None:
    """Runs are continued by later versions: a change here changes every one of them."""
    noise = draw_noise(ObjectiveConfig(), seed=5, step=3, batch_size=4, seq_len=8)
    assert noise.count.tolist() == [5, 2, 8, 3]
    pictures = ["".join(".x"[hidden] for hidden in row) for row in noise.is_masked.int().tolist()]
    assert pictures == ["xx.xxx..", "...x..x.", "xxxxxxxx", "x.xx...."]


def test_complementary_rows_mask_each_position_once_and_a_full_mask_twice() -> None:
    noise = draw(ObjectiveConfig(complementary=True))
    assert torch.equal(noise.is_masked[0::2], draw().is_masked)
    assert torch.equal(noise.count, noise.is_masked.sum(1))
    for first, second in zip(noise.is_masked[0::2], noise.is_masked[1::2], strict=True):
        assert torch.equal(second, first if first.all() else ~first)
    assert noise.is_masked.all(1).any()
    assert complement(torch.tensor([[True, True], [True, False]])).tolist() == [[True, True], [False, True]]


def test_a_share_of_the_steps_is_cut_to_a_length_of_any_size() -> None:
    lengths = torch.tensor([random_length(0.25, seed=0, step=step, seq_len=10) for step in range(20_000)])
    assert float((lengths < 10).double().mean()) == pytest.approx(0.25 * 0.9, abs=0.01)
    assert abs(pearson(lengths.bincount(minlength=11)[1:10].double())) < 3
    noise = draw(ObjectiveConfig(truncation_share=1))
    assert noise.truncated
    assert noise.is_masked.shape == (24, noise.length)
    assert noise.count.max() <= noise.length
    assert not draw().truncated
    assert {random_length(0.0, seed=0, step=step, seq_len=10) for step in range(1000)} == {10}


@pytest.mark.parametrize("rows", [None, slice(3, 9), slice(1, None, 4)])
def test_the_twin_predicts_every_position_of_every_row(rows: slice | None) -> None:
    noise = draw(ObjectiveConfig(kind="autoregressive"), rows=rows)
    assert noise.is_masked.shape == (len(range(24)[rows or slice(None)]), 16)
    assert noise.is_masked.all()
    assert noise.count.tolist() == [16] * 24
    assert not noise.truncated


def test_the_twin_s_batches_are_cut_to_the_lengths_that_a_masked_model_s_are() -> None:
    masked, twin = (
        [draw(ObjectiveConfig(kind=kind, truncation_share=0.5), step=step) for step in range(30)]
        for kind in ("masked", "autoregressive")
    )
    assert [noise.length for noise in twin] == [noise.length for noise in masked]
    assert {noise.truncated for noise in twin} == {False, True}
    assert all(noise.is_masked.shape == (24, noise.length) and noise.is_masked.all() for noise in twin)
    assert all(set(noise.count.tolist()) == {noise.length} for noise in twin)
