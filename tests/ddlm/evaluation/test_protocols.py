"""The curve over mask rates, and the validation figures of earlier projects."""

import math
from itertools import combinations, product

import numpy as np
import pytest
import torch

from ddlm.data.packing import Rows
from ddlm.diffusion.bound import any_order_estimate, guess_masked
from ddlm.diffusion.view import everywhere
from ddlm.evaluation import protocols
from ddlm.evaluation.protocols import Curve
from ddlm.evaluation.sweep import Sweep

MASK = 4
"""Behind four tokens, of which 0 ends a story."""


def rows_of(tokens, text_tokens=None):
    tokens = np.array(tokens, dtype=np.int32)
    text_tokens = [tokens.shape[1]] * len(tokens) if text_tokens is None else text_tokens
    return Rows(tokens, np.array(text_tokens), np.array(text_tokens))


def uniform(ids):
    return torch.zeros(*ids.shape, 4)


class Table:
    """Arbitrary logits over three tokens, mask id 3: one random table entry for each (canvas, position)."""

    def __init__(self, seq_len, seed=0):
        self.radix = 4 ** torch.arange(seq_len)
        shape = (4**seq_len, seq_len, 3)
        self.logits = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def __call__(self, ids):
        return self.logits[(ids * self.radix).sum(1)]


class Watched:
    """Knows nothing, and keeps the canvases that it was shown."""

    def __init__(self):
        self.canvases = []

    def __call__(self, ids):
        self.canvases.append(ids)
        return uniform(ids)


def rates(network, rows, seed=0, **settings):
    return protocols.curve(everywhere(network), rows, mask_id=MASK, end_id=0, seed=seed, **settings)


def curve(network, rows, seed=0, **settings):
    return rates(network, rows, seed, **settings).points()


def s3(network, rows, seed=0, mask_id=MASK, **settings):
    return protocols.s3_protocol(everywhere(network), rows, mask_id=mask_id, seed=seed, **settings)


STORIES = rows_of([[1, 2, 3, 1, 2, 0, 0, 0], [3, 0, 0, 0, 0, 0, 0, 0]] * 20, text_tokens=[6, 2] * 20)


def test_a_model_that_knows_nothing_pays_log_v_at_every_rate():
    points = curve(uniform, STORIES)
    assert [point.mask_rate for point in points] == pytest.approx([(i + 0.5) / 16 for i in range(16)])
    for point in points:
        assert point.nll_nats == pytest.approx(math.log(4))
        assert point.text_nats == pytest.approx(math.log(4) if point.text_tokens else 0)


@pytest.mark.parametrize(
    ("seq_len", "counts"),
    [
        (16, list(range(1, 17))),
        (32, list(range(1, 33, 2))),
        (48, list(range(2, 49, 3))),
        (3, [1] * 5 + [2] * 6 + [3] * 5),
    ],
)
def test_every_row_has_exactly_the_masks_of_each_rate(seq_len, counts):
    watched = Watched()
    curve(watched, rows_of([[1] * seq_len] * 3))
    assert [(canvas == MASK).sum(1).tolist() for canvas in watched.canvases] == [[count] * 3 for count in counts]


def test_masks_of_the_curve_are_everywhere_alike_and_follow_seed_and_row():
    def canvases(seed, **settings):
        watched = Watched()
        curve(watched, rows_of([[1] * 8] * 500), seed, **settings)
        return [canvas == MASK for canvas in watched.canvases]

    first = canvases(0, sweep=Sweep(batch_size=500))
    for is_masked in first:
        share = is_masked.double().mean(0)
        assert share.tolist() == pytest.approx([float(share.mean())] * 8, abs=0.1)
        assert len(is_masked.unique(dim=0)) > 1 or is_masked.all()
    parted = canvases(0, sweep=Sweep(batch_size=200))
    assert torch.equal(torch.stack(first), torch.cat([torch.stack(parted[i : i + 16]) for i in (0, 16, 32)], dim=1))
    assert not torch.equal(torch.stack(first), torch.stack(canvases(1, sweep=Sweep(batch_size=500))))


def test_end_tokens_are_no_text_of_the_curve_and_the_tail_is_none_either():
    points = curve(uniform, STORIES)
    everything = points[-1]  # all eight positions are masked
    assert everything.text_tokens == 20 * (5 + 1)

    def always_two(ids):
        return torch.tensor([0.0, 0, math.log(2), 0]).expand(*ids.shape, 4)

    everything = curve(always_two, STORIES)[-1]
    hits = 20 * 2
    assert everything.accuracy == pytest.approx(hits / 120)
    assert everything.text_nats == pytest.approx((hits * math.log(5 / 2) + (120 - hits) * math.log(5)) / 120)
    assert everything.nll_nats == pytest.approx((hits * math.log(5 / 2) + (320 - hits) * math.log(5)) / 320)


def test_s0_is_the_mean_over_tokens_and_s1_the_mean_over_rates():
    """Two rows alike, two rates at which one and two positions are masked."""
    masks = [[3.0, 1.0, 0.5, 1], [10.0, 6.0, 3.0, 3]]
    found = Curve(np.array([masks, masks]), np.array([1, 2]))
    assert (found.s0().loss, found.s0().accuracy) == pytest.approx((7 / 4, 3.5 / 4))
    assert found.s1().loss == pytest.approx((3 + 5) / 2)
    assert found.s1().accuracy is None
    assert found.s0().loss_stderr == found.s0().accuracy_stderr == found.s1().loss_stderr == 0
    assert found.masks == 4


@pytest.mark.parametrize("name", ["S0", "S1", "S3"])
def test_a_protocols_error_says_how_far_other_masks_move_it(name, monkeypatch):
    """Over 60 seeds: the spread of the values is what each of them says its error is."""
    monkeypatch.setattr(protocols, "LOSS_ERROR", 0.0)
    monkeypatch.setattr(protocols, "MOST_MASKS", 12 * 40)
    rows = rows_of(np.random.default_rng(0).integers(0, 3, (40, 6)))

    def measure(seed):
        if name == "S3":
            return s3(Table(6), rows, seed, mask_id=3)
        found = protocols.curve(everywhere(Table(6)), rows, mask_id=3, end_id=3, seed=seed)
        return found.s0() if name == "S0" else found.s1()

    scores = [measure(seed) for seed in range(60)]
    spread = np.std([score.loss for score in scores], ddof=1)
    assert np.mean([score.loss_stderr for score in scores]) == pytest.approx(spread, rel=0.3)
    if name != "S1":
        spread = np.std([score.accuracy for score in scores], ddof=1)
        assert np.mean([score.accuracy_stderr for score in scores]) == pytest.approx(spread, rel=0.3)


def test_s3s_passes_go_on_until_the_errors_are_small(monkeypatch):
    rows = rows_of(np.random.default_rng(0).integers(0, 3, (40, 6)))
    monkeypatch.setattr(protocols, "ACCURACY_ERROR", 1.0)
    monkeypatch.setattr(protocols, "MOST_MASKS", 10**6)
    for error in (0.1, 0.05):
        monkeypatch.setattr(protocols, "LOSS_ERROR", error)
        score = s3(Table(6), rows, mask_id=3)
        assert score.loss_stderr < error
        assert protocols.FEWEST_PASSES <= score.masks // 40 < protocols.MOST_PASSES
    monkeypatch.setattr(protocols, "LOSS_ERROR", 0.0)
    assert s3(Table(6), rows, mask_id=3).masks == 40 * protocols.MOST_PASSES


def test_s3s_stratified_times_leave_its_mean_as_it_was():
    """Against every mask of one row, each with the probability that t uniform in (0, 1) gives it."""
    x_0 = torch.tensor([[1, 0, 2, 1]])
    t = (np.arange(4000) + 0.5) / 4000
    rate = 1 - np.cos(np.pi * t / 2)
    nats = masked = 0.0
    for mask in product([False, True], repeat=4):
        is_masked = torch.tensor([mask])
        share = float((rate ** sum(mask) * (1 - rate) ** (4 - sum(mask))).mean())
        made = guess_masked(everywhere(Table(4)), x_0, is_masked, 3)
        nats, masked = nats + share * float(made.nats.sum()), masked + share * sum(mask)
    score = s3(Table(4), rows_of([x_0[0].tolist()] * 50), mask_id=3)
    assert abs(score.loss - nats / masked) < 4 * score.loss_stderr


def test_end_tokens_for_free_lower_s1_and_not_s0():
    def knows_the_tail(ids):
        logits = uniform(ids)
        logits[:, 3:, 0] = 50
        return logits

    rows = rows_of([[1, 2, 3, 0, 0, 0, 0, 0]] * 40, text_tokens=[4] * 40)
    ignorant, cheap = rates(uniform, rows), rates(knows_the_tail, rows)
    assert cheap.s0().loss == pytest.approx(ignorant.s0().loss)
    assert ignorant.s1().loss == pytest.approx(math.log(4))
    assert cheap.s1().loss == pytest.approx(math.log(4) * 3 / 8, rel=0.05)


def any_order_bound(network, x_0, mask_id):
    """The mean over rows, over every number of masks, and over every mask of that size."""
    seq_len, by_size = x_0.shape[1], []
    for k in range(1, seq_len + 1):
        masks = [torch.tensor([i in chosen for i in range(seq_len)]) for chosen in combinations(range(seq_len), k)]
        each = [(mask.expand_as(x_0), guess_masked(network, x_0, mask.expand_as(x_0), mask_id)) for mask in masks]
        by_size.append(torch.stack([any_order_estimate(made.nats, mask).mean() for mask, made in each]).mean())
    return float(torch.stack(by_size).mean())


def test_s1_is_the_bound_a_position_where_the_rates_are_all_there_are(monkeypatch):
    monkeypatch.setattr(protocols, "RATES", 4)
    network, x_0 = everywhere(Table(4)), torch.tensor(list(product(range(3), repeat=4)))
    rows = rows_of(x_0.numpy())
    losses = [protocols.curve(network, rows, mask_id=3, end_id=0, seed=seed).s1().loss for seed in range(30)]
    stderr = np.std(losses, ddof=1) / math.sqrt(30)
    assert stderr < 0.01
    assert abs(np.mean(losses) * 4 - any_order_bound(network, x_0, 3)) < 4 * stderr * 4


def test_s3s_protocol_leaves_the_tail_visible_and_masks_at_the_cosine_rate():
    watched = Watched()
    rows = rows_of([[1, 2, 3, 1, 0, 0, 0]] * 600, text_tokens=[5] * 600)
    score = s3(watched, rows)
    canvas = torch.cat(watched.canvases)
    assert (canvas[:, 5:] == 0).all()
    assert (canvas[:, :5] == MASK).double().mean() == pytest.approx(1 - 2 / math.pi, abs=0.03)
    assert score.loss == pytest.approx(math.log(4))
    assert score.accuracy == pytest.approx(1 / 5, abs=0.04)


def test_s3s_loss_weighs_every_masked_token_alike():
    rows = rows_of([[1, 2, 1, 2], [2, 2, 2, 0]], text_tokens=[4, 4])

    def knows_one(ids):
        return torch.tensor([0.0, 0, math.log(2)]).expand(*ids.shape, 3)

    score = s3(knows_one, rows, mask_id=3)
    nats = score.accuracy * math.log(2) + (1 - score.accuracy) * math.log(4)
    assert score.loss == pytest.approx(nats)


def test_s3s_protocol_is_the_same_for_a_seed_whatever_the_batch_size():
    rows = rows_of([[1, 2, 0, 0], [1, 1, 2, 0], [2, 0, 0, 0]], text_tokens=[3, 4, 2])
    scores = [s3(Table(4), rows, 2, mask_id=3, sweep=Sweep(batch_size=size)) for size in (1, 2, 8)]
    for score in scores[1:]:
        assert (score.loss, score.accuracy) == pytest.approx((scores[0].loss, scores[0].accuracy))
    assert s3(Table(4), rows, 3, mask_id=3).loss != scores[0].loss


def test_s3s_protocol_measures_even_a_single_row_that_a_draw_may_leave_without_masks():
    rows = rows_of([[1, 2, 0, 0]], text_tokens=[3])
    for seed in range(30):
        assert s3(uniform, rows, seed).loss == pytest.approx(math.log(4))
