"""The bound against enumeration, closed forms and the leaks that it must not have."""

import math
from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch

from ddlm.data.packing import Rows
from ddlm.evaluation import likelihood


def rows_of(tokens, text_tokens=None, text_bytes=None):
    tokens = np.array(tokens, dtype=np.int32)
    text_tokens = [tokens.shape[1]] * len(tokens) if text_tokens is None else text_tokens
    return Rows(tokens, np.array(text_bytes or text_tokens), np.array(text_tokens))


def uniform(vocab_size):
    return lambda ids: torch.zeros(*ids.shape, vocab_size)


class Table:
    """Arbitrary logits: one random table entry for each (canvas, position)."""

    def __init__(self, vocab_size, seq_len, seed=0):
        self.radix = (vocab_size + 1) ** torch.arange(seq_len)
        shape = ((vocab_size + 1) ** seq_len, seq_len, vocab_size)
        self.logits = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def __call__(self, ids):
        return self.logits[(ids * self.radix).sum(1)]


class Exact:
    """The true conditionals p(x_i | what is visible) of a distribution over all sequences, by summing it."""

    def __init__(self, joint):
        self.joint, self.vocab_size = joint, joint.shape[0]

    def __call__(self, ids):
        return torch.stack([self.one(row.tolist()) for row in ids])

    def one(self, row):
        visible = self.joint[
            tuple(slice(None) if token == self.vocab_size else slice(token, token + 1) for token in row)
        ]
        axes = range(len(row))
        marginals = [visible.sum([axis for axis in axes if axis != i]).flatten() for i in axes]
        filled = [m if len(m) == self.vocab_size else torch.ones(self.vocab_size) for m in marginals]
        return torch.stack([values.double().log() for values in filled])


def expectation(denoiser, row, mask_id):
    """The estimator's mean over every k and every mask of k positions."""
    seq_len = len(row)
    total = 0.0
    for k in range(1, seq_len + 1):
        masks = [[i in chosen for i in range(seq_len)] for chosen in combinations(range(seq_len), k)]
        is_masked = torch.tensor(masks)
        guess = likelihood.guess_masked(denoiser, torch.tensor([row] * len(masks)), is_masked, mask_id)
        total += float(likelihood.any_order_estimate(guess.nats, is_masked).mean()) / seq_len
    return total


def order_nats(denoiser, row, mask_id):
    """-log p(row) along each order of unmasking."""
    values = []
    for order in permutations(range(len(row))):
        canvas, nats = torch.full((1, len(row)), mask_id), 0.0
        for position in order:
            log_probs = denoiser(canvas)[0, position].log_softmax(-1)
            nats -= float(log_probs[row[position]])
            canvas[0, position] = row[position]
        values.append(nats)
    return np.array(values)


def test_a_uniform_model_scores_log_v_at_every_position_of_the_row():
    rows = rows_of([[1, 2, 0, 0, 0, 0], [3, 3, 3, 1, 2, 0]], text_tokens=[3, 6], text_bytes=[10, 26])
    bound = likelihood.bound(uniform(4), rows, mask_id=4, masks_per_row=6, seed=0)
    assert bound.row_nats == pytest.approx([6 * math.log(4)] * 2)
    assert bound.nll_nats == pytest.approx(12 * math.log(4) / 9)
    assert bound.bits_per_byte == pytest.approx(12 * 2 / 36)
    assert bound.nll_nats_stderr == pytest.approx(0, abs=1e-6)
    assert bound.bound == "upper"


def test_copying_what_is_visible_gains_nothing():
    def copying(ids):
        return 50 * torch.nn.functional.one_hot(ids, 5)[..., :4].float()

    rows = rows_of([[1, 2, 3, 3, 0], [0, 1, 0, 1, 2]])
    bound = likelihood.bound(copying, rows, mask_id=4, masks_per_row=4, seed=0)
    assert bound.row_nats == pytest.approx([5 * math.log(4)] * 2)


@pytest.mark.parametrize("seed", range(3))
def test_the_estimator_expects_the_average_over_all_orders_and_lies_above_the_likelihood(seed):
    denoiser = Table(3, 3, seed)
    for row in product(range(3), repeat=3):
        nats = order_nats(denoiser, row, 3)
        assert expectation(denoiser, row, 3) == pytest.approx(nats.mean())
        assert expectation(denoiser, row, 3) >= -math.log(np.exp(-nats).mean()) - 1e-9


def test_the_bound_of_an_exact_denoiser_is_the_entropy_of_the_data():
    joint = torch.rand(2, 2, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    joint /= joint.sum()
    denoiser = Exact(joint)
    rows = list(product(range(2), repeat=4))
    bound = sum(float(joint[row]) * expectation(denoiser, row, 2) for row in rows)
    assert bound == pytest.approx(-float((joint * joint.log()).sum()))


def test_the_monte_carlo_bound_comes_to_its_expectation():
    denoiser, rows = Table(3, 3), list(product(range(3), repeat=3))
    bound = likelihood.bound(denoiser, rows_of(rows), mask_id=3, masks_per_row=600, seed=0)
    expected = sum(expectation(denoiser, row, 3) for row in rows) / (3 * len(rows))
    assert bound.nll_nats_stderr < 0.02
    assert abs(bound.nll_nats - expected) < 4 * bound.nll_nats_stderr


def test_the_standard_error_is_the_spread_over_seeds():
    denoiser, rows = Table(3, 4), rows_of(list(product(range(3), repeat=4)))
    bounds = [likelihood.bound(denoiser, rows, mask_id=3, masks_per_row=4, seed=seed) for seed in range(40)]
    spread = np.std([bound.nll_nats for bound in bounds], ddof=1)
    assert np.mean([bound.nll_nats_stderr for bound in bounds]) == pytest.approx(spread, rel=0.2)


def test_the_same_seed_gives_the_same_bits_whatever_the_batch_size():
    denoiser, rows = Table(3, 4), rows_of(list(product(range(3), repeat=4))[:13])
    first, *others = [
        likelihood.bound(denoiser, rows, mask_id=3, masks_per_row=4, seed=5, batch_size=size) for size in (1, 4, 64)
    ]
    for other in others:
        assert np.array_equal(first.row_nats, other.row_nats)
        assert first.bits_per_byte_interval == other.bits_per_byte_interval
        assert first.masked_accuracy == other.masked_accuracy
    reseeded = likelihood.bound(denoiser, rows, mask_id=3, masks_per_row=4, seed=6)
    assert not np.array_equal(first.row_nats, reseeded.row_nats)


def test_mask_sizes_are_stratified_and_uniform_and_places_are_uniform():
    rng = np.random.default_rng(0)
    masks = np.concatenate([likelihood.exact_k_masks(rng, 8, 8) for _ in range(400)])
    assert sorted(masks[:8].sum(1)) == list(range(1, 9))
    assert masks.mean(0) == pytest.approx([(8 + 1) / 2 / 8] * 8, abs=0.03)
    loose = np.concatenate([likelihood.exact_k_masks(rng, 1, 8) for _ in range(4000)])
    assert np.bincount(loose.sum(1))[1:] / 4000 == pytest.approx([1 / 8] * 8, abs=0.02)


def test_masked_accuracy_does_not_count_the_tail():
    rows = rows_of([[1, 2, 3, 0, 0, 0, 0, 0]] * 20, text_tokens=[4] * 20)

    def always_end(ids):
        return torch.tensor([1.0, 0, 0, 0]).expand(*ids.shape, 4)

    bound = likelihood.bound(always_end, rows, mask_id=4, masks_per_row=32, seed=0)
    assert bound.masked_accuracy == pytest.approx(1 / 4, abs=0.03)


def test_s3s_protocol_leaves_the_tail_visible_and_masks_at_the_cosine_rate():
    canvases = []

    def watching(ids):
        canvases.append(ids)
        return torch.zeros(*ids.shape, 4)

    rows = rows_of([[1, 2, 3, 1, 0, 0, 0]] * 600, text_tokens=[5] * 600)
    score = likelihood.s3_protocol(watching, rows, mask_id=4, seed=0)
    canvas = torch.cat(canvases)
    assert (canvas[:, 5:] == 0).all()
    assert (canvas[:, :5] == 4).double().mean() == pytest.approx(1 - 2 / math.pi, abs=0.03)
    assert score.loss == pytest.approx(math.log(4))
    assert score.accuracy == pytest.approx(1 / 5, abs=0.04)


def test_s3s_loss_weighs_every_masked_token_alike():
    rows = rows_of([[1, 2, 1, 2], [2, 2, 2, 0]], text_tokens=[4, 4])

    def knows_one(ids):
        return torch.tensor([0.0, 0, math.log(2)]).expand(*ids.shape, 3)

    score = likelihood.s3_protocol(knows_one, rows, mask_id=3, seed=0)
    nats = score.accuracy * math.log(2) + (1 - score.accuracy) * math.log(4)
    assert score.loss == pytest.approx(nats)


def test_s3s_protocol_is_the_same_for_a_seed_whatever_the_batch_size():
    rows = rows_of([[1, 2, 0, 0], [1, 1, 2, 0], [2, 0, 0, 0]], text_tokens=[3, 4, 2])
    scores = [likelihood.s3_protocol(Table(3, 4), rows, mask_id=3, seed=2, batch_size=size) for size in (1, 2, 8)]
    for score in scores[1:]:
        assert (score.loss, score.accuracy) == pytest.approx((scores[0].loss, scores[0].accuracy))


def test_s3s_protocol_measures_even_a_single_row_that_a_draw_may_leave_without_masks():
    rows = rows_of([[1, 2, 0, 0]], text_tokens=[3])
    for seed in range(30):
        assert likelihood.s3_protocol(uniform(3), rows, mask_id=3, seed=seed).loss == pytest.approx(math.log(3))


def test_the_interval_is_a_bootstrap_over_stories():
    rng = np.random.default_rng(0)
    bits = rng.normal(2.0, 0.5, 400)
    low, high = likelihood.bootstrap_interval(bits, np.ones(400), seed=0)
    assert (high - low) == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.15)
    assert low < bits.mean() < high


def test_rows_of_one_story_are_drawn_together():
    rows = rows_of([[1, 1, 1], [1, 2, 1], [2, 2, 1], [1, 2, 2]])
    common = {"mask_id": 3, "masks_per_row": 2, "seed": 0}
    low, high = likelihood.bound(Table(3, 3), rows, story=np.zeros(4, dtype=int), **common).bits_per_byte_interval
    assert low == pytest.approx(high)
    low, high = likelihood.bound(Table(3, 3), rows, **common).bits_per_byte_interval
    assert high > low
