"""The bound against enumeration, closed forms and the leaks that it must not have; the exact value of the twin."""

import math
from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch

from ddlm.data.packing import Rows
from ddlm.diffusion.bound import any_order_estimate, exact_k_masks, guess_masked
from ddlm.diffusion.view import everywhere
from ddlm.evaluation import likelihood
from ddlm.evaluation.sweep import Sweep
from ddlm.model import ModelConfig
from ddlm.model.transformer import Denoiser


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


def estimates(network, row, mask_id):
    """For every k what the estimator says under every mask of k positions."""
    seq_len = len(row)
    for k in range(1, seq_len + 1):
        masks = [[i in chosen for i in range(seq_len)] for chosen in combinations(range(seq_len), k)]
        is_masked = torch.tensor(masks)
        guess = guess_masked(everywhere(network), torch.tensor([row] * len(masks)), is_masked, mask_id)
        yield any_order_estimate(guess.nats, is_masked)


def expectation(network, row, mask_id):
    """The estimator's mean: k is uniform, and so is the mask of k positions."""
    return float(torch.stack([values.mean() for values in estimates(network, row, mask_id)]).mean())


def variance(network, row, mask_id):
    """Of one estimate."""
    square = torch.stack([values.square().mean() for values in estimates(network, row, mask_id)]).mean()
    return float(square) - expectation(network, row, mask_id) ** 2


def order_nats(network, row, mask_id):
    """-log p(row) along each order of unmasking."""
    values = []
    for order in permutations(range(len(row))):
        canvas, nats = torch.full((1, len(row)), mask_id), 0.0
        for position in order:
            log_probs = network(canvas)[0, position].log_softmax(-1)
            nats -= float(log_probs[row[position]])
            canvas[0, position] = row[position]
        values.append(nats)
    return np.array(values)


def bound(network, rows, **settings):
    return likelihood.bound(everywhere(network), rows, **settings)


def twin(vocab_size, seq_len):
    """With arbitrary weights, none of which is zero."""
    config = ModelConfig(d_model=16, num_layers=2, num_heads=2, attention="causal")
    network = Denoiser(config, vocab_size=vocab_size, seq_len=seq_len, is_autoregressive=True).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return network


def test_a_uniform_model_scores_log_v_at_every_position_of_the_row():
    rows = rows_of([[1, 2, 0, 0, 0, 0], [3, 3, 3, 1, 2, 0]], text_tokens=[3, 6], text_bytes=[10, 26])
    found = bound(uniform(4), rows, mask_id=4, masks_per_row=6, seed=0)
    assert found.row_nats == pytest.approx([6 * math.log(4)] * 2)
    assert found.nll_nats == pytest.approx(12 * math.log(4) / 9)
    assert found.bits_per_byte == pytest.approx(12 * 2 / 36)
    assert found.nll_nats_stderr == pytest.approx(0, abs=1e-6)
    assert found.bound == "upper"


def test_copying_what_is_visible_gains_nothing():
    def copying(ids):
        return 50 * torch.nn.functional.one_hot(ids, 5)[..., :4].float()

    rows = rows_of([[1, 2, 3, 3, 0], [0, 1, 0, 1, 2]])
    found = bound(copying, rows, mask_id=4, masks_per_row=4, seed=0)
    assert found.row_nats == pytest.approx([5 * math.log(4)] * 2)


@pytest.mark.parametrize("seed", range(3))
def test_the_estimator_expects_the_average_over_all_orders_and_lies_above_the_likelihood(seed):
    network = Table(3, 3, seed)
    for row in product(range(3), repeat=3):
        nats = order_nats(network, row, 3)
        assert expectation(network, row, 3) == pytest.approx(nats.mean())
        assert expectation(network, row, 3) >= -math.log(np.exp(-nats).mean()) - 1e-9


def test_the_bound_of_an_exact_denoiser_is_the_entropy_of_the_data():
    joint = torch.rand(2, 2, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    joint /= joint.sum()
    network = Exact(joint)
    rows = list(product(range(2), repeat=4))
    mean = sum(float(joint[row]) * expectation(network, row, 2) for row in rows)
    assert mean == pytest.approx(-float((joint * joint.log()).sum()))


def test_the_monte_carlo_bound_comes_to_its_expectation():
    network, rows = Table(3, 3), list(product(range(3), repeat=3))
    found = bound(network, rows_of(rows), mask_id=3, masks_per_row=600, seed=0)
    expected = sum(expectation(network, row, 3) for row in rows) / (3 * len(rows))
    assert found.nll_nats_stderr < 0.02
    assert abs(found.nll_nats - expected) < 4 * found.nll_nats_stderr


def test_the_standard_error_is_the_spread_over_seeds():
    network, rows = Table(3, 4), rows_of(list(product(range(3), repeat=4)))
    bounds = [bound(network, rows, mask_id=3, masks_per_row=4, seed=seed) for seed in range(40)]
    spread = np.std([found.nll_nats for found in bounds], ddof=1)
    assert np.mean([found.nll_nats_stderr for found in bounds]) == pytest.approx(spread, rel=0.2)
    spread = np.std([found.accuracy for found in bounds], ddof=1)
    assert np.mean([found.accuracy_stderr for found in bounds]) == pytest.approx(spread, rel=0.3)
    assert bounds[0].nats_per_story_stderr == pytest.approx(4 * bounds[0].nll_nats_stderr)


def test_the_same_seed_gives_the_same_bits_whatever_the_batch_size():
    network, rows = Table(3, 4), rows_of(list(product(range(3), repeat=4))[:13])
    first, *others = [
        bound(network, rows, mask_id=3, masks_per_row=4, seed=5, sweep=Sweep(batch_size=size)) for size in (1, 4, 64)
    ]
    for other in others:
        assert np.array_equal(first.row_nats, other.row_nats)
        assert first.bits_per_byte_interval == other.bits_per_byte_interval
        assert first.accuracy == other.accuracy
    reseeded = bound(network, rows, mask_id=3, masks_per_row=4, seed=6)
    assert not np.array_equal(first.row_nats, reseeded.row_nats)


def test_mask_sizes_are_stratified_and_uniform_and_places_are_uniform():
    rng = np.random.default_rng(0)
    masks = np.concatenate([exact_k_masks(rng, 8, 8) for _ in range(400)])
    assert sorted(masks[:8].sum(1)) == list(range(1, 9))
    assert masks.mean(0) == pytest.approx([(8 + 1) / 2 / 8] * 8, abs=0.03)
    loose = np.concatenate([exact_k_masks(rng, 1, 8) for _ in range(4000)])
    assert np.bincount(loose.sum(1))[1:] / 4000 == pytest.approx([1 / 8] * 8, abs=0.02)


def test_accuracy_does_not_count_the_tail():
    rows = rows_of([[1, 2, 3, 0, 0, 0, 0, 0]] * 20, text_tokens=[4] * 20)

    def always_end(ids):
        return torch.tensor([1.0, 0, 0, 0]).expand(*ids.shape, 4)

    found = bound(always_end, rows, mask_id=4, masks_per_row=32, seed=0)
    assert found.accuracy == pytest.approx(1 / 4, abs=0.03)


def test_the_interval_is_a_bootstrap_over_stories():
    rng = np.random.default_rng(0)
    bits = rng.normal(2.0, 0.5, 400)
    low, high = likelihood.bootstrap_interval(bits, np.ones(400), seed=0)
    assert (high - low) == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.15)
    assert low < bits.mean() < high


def test_rows_of_one_story_are_drawn_together():
    rows = rows_of([[1, 1, 1], [1, 2, 1], [2, 2, 1], [1, 2, 2]] * likelihood.FEWEST_STORIES)
    common = {"mask_id": 3, "masks_per_row": 2, "seed": 0}
    story = np.repeat(np.arange(likelihood.FEWEST_STORIES), 4)
    nats = np.tile([1.0, 2.0, 3.0, 4.0], likelihood.FEWEST_STORIES)
    _, interval = likelihood.per_byte(nats, rows, story, 0)
    assert interval[0] == pytest.approx(interval[1])
    low, high = bound(Table(3, 3), rows, **common).bits_per_byte_interval
    assert high > low


def test_an_interval_of_few_stories_is_not_given():
    rows = rows_of([[1, 1, 1]] * likelihood.FEWEST_STORIES)
    nats = np.arange(len(rows), dtype=float)
    assert likelihood.per_byte(nats, rows, None, 0)[1]
    assert likelihood.per_byte(nats[1:], rows[1:], None, 0)[1] is None


@pytest.mark.parametrize("count", [likelihood.FEWEST_STORIES, 40])
def test_the_interval_covers_as_often_as_it_says(count, monkeypatch):
    """Costs and sizes of stories with a long tail; 1,000 draws, whose share has a standard error of 0.7 points."""
    monkeypatch.setattr(likelihood, "RESAMPLES", 300)
    rng = np.random.default_rng(0)
    size = np.exp(rng.normal(6.5, 0.4, (1000, count)))
    bits = size * rng.gamma(20, 1.4 / 20, size.shape)
    pairs = [likelihood.bootstrap_interval(*pair, seed=0) for pair in zip(bits, size, strict=True)]
    covered = np.mean([low <= 1.4 <= high for low, high in pairs])
    assert 0.93 < covered < 0.97


def test_the_widening_is_students():
    assert likelihood._widening(20, 0.975) == pytest.approx(2.093 / 1.960 * math.sqrt(20 / 19), abs=1e-3)
    assert likelihood._widening(100_000, 0.975) == pytest.approx(1, abs=1e-4)


def test_rows_of_a_story_that_make_up_for_each_other_leave_nothing_to_the_bootstrap():
    rows, nats = rows_of([[1, 1]] * 40), np.tile([10.0, 0.0], 20)
    _, (low, high) = likelihood.per_byte(nats, rows, np.repeat(np.arange(20), 2), seed=0)
    assert low == high == pytest.approx(5 / math.log(2) / 2)
    _, (low, high) = likelihood.per_byte(nats, rows, None, seed=0)
    assert high - low > 1


@pytest.mark.parametrize("kind", ["upper", "exact"])
def test_every_score_has_its_denominator(kind):
    rows = rows_of([[1, 2, 3, 1], [2, 0, 0, 0], [3, 0, 0, 0]], text_tokens=[4, 2, 2], text_bytes=[9, 3, 4])
    common = {"seed": 0, "story": np.array([0, 0, 1])}
    found = (
        bound(uniform(4), rows, mask_id=4, masks_per_row=2, **common)
        if kind == "upper"
        else likelihood.exact(everywhere(uniform(4)), rows, **common)
    )
    nats = 3 * 4 * math.log(4)
    assert found.bound == kind
    assert found.nll_nats == pytest.approx(nats / 8)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / 16)
    assert found.nats_per_story == pytest.approx(nats / 2)


def test_four_times_the_masks_at_least_halve_the_error():
    """Up to the chance of 8100 errors, whose tails are heavy; independent masks, without strata, just halve it."""
    network, rows, copies = Table(3, 4), list(product(range(3), repeat=4)), 100
    expected, many = np.tile([expectation(network, row, 3) for row in rows], copies), rows_of(rows * copies)

    def error(masks):
        found = bound(network, many, mask_id=3, masks_per_row=masks, seed=0, sweep=Sweep(batch_size=len(many)))
        return np.sqrt(np.mean((found.row_nats - expected) ** 2))

    few, more, most = error(4), error(16), error(64)
    assert more < 0.53 * few
    assert most < 0.53 * more


def test_the_variance_per_mask_is_that_of_a_single_estimate_and_falls_where_masks_are_stratified():
    network, rows, copies = Table(3, 3), list(product(range(3), repeat=3)), 300
    many = rows_of(rows * copies)

    def variances(masks):
        found = bound(network, many, mask_id=3, masks_per_row=masks, seed=0, sweep=Sweep(batch_size=len(many)))
        spread = np.var(found.row_nats.reshape(copies, -1), axis=0, ddof=1).mean() * masks
        return found.variance_per_mask, spread

    single = np.mean([variance(network, row, 3) for row in rows])
    assert variances(2) == pytest.approx((single, single), rel=0.1)
    stratified, spread = variances(12)
    assert stratified == pytest.approx(spread, rel=0.1)
    assert stratified < 0.9 * single


def test_the_twin_s_likelihood_is_the_chain_rule_from_left_to_right_and_sums_to_one():
    network, rows = twin(3, 3), list(product(range(3), repeat=3))
    found = likelihood.likelihood_of(network, rows_of(rows), masks_per_row=2, seed=0)
    for row, nats in zip(rows, found.row_nats, strict=True):
        canvas, by_hand = torch.full((1, 3), 3), 0.0
        for position, token in enumerate(row):
            by_hand -= float(network(canvas)[0, position].log_softmax(-1)[token].detach())
            canvas[0, position] = token
        assert nats == pytest.approx(by_hand, rel=1e-5)
    assert np.exp(-found.row_nats).sum() == pytest.approx(1, rel=1e-5)
    assert found.bound == "exact"
    assert found.nll_nats_stderr == found.accuracy_stderr == 0
    assert found.variance_per_mask is None
    hits = (network(torch.tensor(rows)).argmax(-1) == torch.tensor(rows)).double()
    assert found.accuracy == pytest.approx(float(hits.mean()))


def test_a_masked_model_has_a_bound_under_the_masks_asked_for():
    config = ModelConfig(d_model=16, num_layers=1, num_heads=2)
    found = likelihood.likelihood_of(
        Denoiser(config, vocab_size=3, seq_len=3).eval(), rows_of([[0, 1, 2]]), masks_per_row=2, seed=0
    )
    assert found.bound == "upper"
    assert found.row_nats == pytest.approx([3 * math.log(3)])  # untrained, it knows nothing
