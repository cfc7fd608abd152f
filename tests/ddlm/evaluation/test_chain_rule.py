"""Exact likelihoods of a masked model against enumeration: they are probabilities, whatever order the text chooses."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from ddlm.data.packing import Rows
from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.view import everywhere
from ddlm.evaluation.chain_rule import DETERMINISTIC, chain_rule, one_by_one, score_rows

VOCAB, LENGTH, MASK = 3, 3, 3
ALL = torch.tensor(list(product(range(VOCAB), repeat=LENGTH)))
EVERY = torch.ones_like(ALL, dtype=torch.bool)


class Table:
    """Arbitrary logits: one random table entry for each (canvas, position)."""

    def __init__(self, seed=0):
        self.radix = (VOCAB + 1) ** torch.arange(LENGTH)
        shape = ((VOCAB + 1) ** LENGTH, LENGTH, VOCAB)
        self.logits = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def __call__(self, ids):
        return self.logits[(ids * self.radix).sum(1)]


def writing(unmasking, steps=LENGTH, **settings):
    return SamplingConfig(unmasking=unmasking, num_sampling_steps=steps, **{"ends": "free", **settings})


def nats_of(network, x_0=ALL, is_scored=EVERY, sampling=None):
    sampling = sampling or one_by_one("confidence", LENGTH)
    return chain_rule(everywhere(network), x_0, is_scored, mask_id=MASK, sampling=sampling)


SEVERAL_A_STEP = [
    writing("left_to_right", 2),
    writing("confidence", 2),
    writing("threshold", threshold=0.6),
    writing("threshold", 2, threshold=0.3),
    writing("entropy_bound", entropy_bound=0.8),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sampling", [*[one_by_one(name, LENGTH) for name in DETERMINISTIC], *SEVERAL_A_STEP])
def test_the_probabilities_of_all_texts_sum_to_one(sampling, seed):
    nats = nats_of(Table(seed), sampling=sampling).sum(1)
    assert float(torch.exp(-nats).sum()) == pytest.approx(1)


def surest(probabilities, position):
    return -float(probabilities[position].max()), position


def furthest_ahead(probabilities, position):
    first, second = probabilities[position].topk(2).values.tolist()
    return second - first, position


def least_uncertain(probabilities, position):
    chance = probabilities[position]
    return -float((chance * chance.log()).sum()), position


def in_reading_order(probabilities, position):
    return position


@pytest.mark.parametrize(
    ("unmasking", "key"),
    [
        ("confidence", surest),
        ("margin", furthest_ahead),
        ("entropy", least_uncertain),
        ("left_to_right", in_reading_order),
    ],
)
def test_the_value_is_what_the_policy_gives_by_hand(unmasking, key):
    orders_of_a_network = []
    for network in map(Table, range(4)):
        found, orders = nats_of(network, sampling=one_by_one(unmasking, LENGTH)), set()
        for row, given in zip(ALL.tolist(), found, strict=True):
            order, by_hand = along(network, row, key)
            assert given.tolist() == pytest.approx(by_hand)
            orders.add(order)
        orders_of_a_network.append(len(orders))
    assert (max(orders_of_a_network) > 1) == (unmasking != "left_to_right"), "the text decides the order"


def along(network, row, key):
    """The order in which the policy opens the row's positions, and -log p of each when it was opened."""
    canvas, order, nats = torch.full((1, LENGTH), MASK), [], [0.0] * LENGTH
    while len(order) < LENGTH:
        probabilities = network(canvas)[0].softmax(-1)
        masked = [position for position in range(LENGTH) if position not in order]
        place = min(masked, key=lambda position: key(probabilities, position))
        nats[place] = -math.log(probabilities[place, row[place]])
        canvas[0, place] = row[place]
        order.append(place)
    return tuple(order), nats


def test_equally_certain_positions_are_opened_from_the_left():
    def alike(ids):
        """Every position is as certain as any other, and what it says depends on how many are masked."""
        is_last = ((ids == MASK).sum(1) == 1)[:, None, None]
        first, last = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 5.0])
        return torch.where(is_last, last, first).expand(*ids.shape, VOCAB)

    nats = nats_of(alike, ALL[:1], EVERY[:1])[0]
    early, late = (-torch.tensor(logits).log_softmax(0)[0] for logits in ([2.0, 0.0, 0.0], [0.0, 0.0, 5.0]))
    assert nats.tolist() == pytest.approx([float(early), float(early), float(late)])


@pytest.mark.parametrize("sampling", [one_by_one("confidence", LENGTH), one_by_one("margin", LENGTH)])
def test_an_exact_denoiser_gives_the_probability_of_the_text_in_any_order(sampling):
    joint = torch.rand(VOCAB, VOCAB, VOCAB, generator=torch.Generator().manual_seed(1)).double()
    joint /= joint.sum()

    def network(ids):
        return torch.stack([conditionals(row) for row in ids.tolist()])

    def conditionals(row):
        visible = joint[tuple(slice(None) if token == MASK else slice(token, token + 1) for token in row)]
        marginals = [visible.sum([axis for axis in range(LENGTH) if axis != i]).flatten() for i in range(LENGTH)]
        return torch.stack([values.log() if len(values) == VOCAB else torch.zeros(VOCAB) for values in marginals])

    nats = nats_of(network, sampling=sampling).sum(1)
    assert torch.exp(-nats).tolist() == pytest.approx(joint.flatten().tolist())


def test_what_is_not_scored_is_visible_from_the_start_and_costs_nothing():
    network, is_scored = Table(2), torch.tensor([[False, True, True]]).expand_as(ALL)
    nats = nats_of(network, is_scored=is_scored)
    assert (nats[:, 0] == 0).all()
    given_the_first = torch.exp(-nats.sum(1)).view(VOCAB, -1).sum(1)
    assert given_the_first.tolist() == pytest.approx([1.0] * VOCAB)
    one = torch.tensor([[False, True, False]]).expand_as(ALL)
    alone = network(ALL.masked_fill(one, MASK))[:, 1].log_softmax(-1).gather(1, ALL[:, 1:2])[:, 0]
    assert nats_of(network, is_scored=one)[:, 1].tolist() == pytest.approx((-alone).tolist())


def test_a_batch_gives_what_its_rows_give_alone_also_where_they_are_done_at_different_steps():
    network, is_scored = Table(0), torch.rand(ALL.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    for sampling in (one_by_one("entropy", LENGTH), writing("threshold", threshold=0.6)):
        together = nats_of(network, ALL, is_scored, sampling)
        alone = [nats_of(network, ALL[i : i + 1], is_scored[i : i + 1], sampling) for i in range(len(ALL))]
        assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("settings", [{"temperature": 0.1}, {"top_k": 1}, {"top_p": 0.2}, {"temperature": 0.0}])
def test_how_one_token_would_be_drawn_changes_nothing(settings):
    network = Table(0)
    assert torch.equal(nats_of(network, sampling=writing("confidence", **settings)), nats_of(network))


@pytest.mark.parametrize(
    "sampling",
    [
        *[writing(name) for name in ("random", "first_hitting", "remdm_cap", "remdm_loop", "revise")],
        writing("confidence", ends="drawn"),
        writing("confidence", ends="last"),
    ],
)
def test_orders_with_chance_in_them_are_refused(sampling):
    said = f"chain rule: got unmasking {sampling.unmasking} with ends {sampling.ends}; wanted one of left_to_right"
    with pytest.raises(ValueError, match=said):
        nats_of(Table(0), sampling=sampling)


def test_rows_are_scored_per_text_token_and_byte_and_the_seed_is_of_the_bootstrap_alone():
    rows = Rows(ALL.numpy().astype(np.int32), np.arange(1, 28), np.array([3] * 26 + [1]))
    common = {"mask_id": MASK, "sampling": one_by_one("margin", LENGTH), "story": np.minimum(np.arange(27), 20)}
    first, second = (score_rows(everywhere(Table(0)), rows, seed=seed, **common) for seed in (0, 1))
    nats = float(nats_of(Table(0), sampling=common["sampling"]).sum())
    assert first.nll_nats == second.nll_nats == pytest.approx(nats / (26 * 3 + 1))
    assert first.bits_per_byte == second.bits_per_byte == pytest.approx(nats / math.log(2) / (27 * 28 / 2))
    assert first.bits_per_byte_interval != second.bits_per_byte_interval
    assert first.stories == 21
    assert first.bound == "exact"


def test_what_is_hidden_stays_masked_and_counts_nothing():
    is_scored = torch.tensor([True, True, False]).expand(ALL.shape)
    settings = {"mask_id": VOCAB, "sampling": one_by_one("left_to_right", LENGTH)}
    nats = chain_rule(everywhere(Table(3)), ALL, is_scored, is_hidden=~is_scored, **settings)
    assert (nats[:, 2] == 0).all()
    assert torch.equal(nats[0::3], nats[1::3])  # the last token, which is hidden, makes no difference
    assert float((-nats.sum(1)[0::3]).exp().sum()) == pytest.approx(1)
