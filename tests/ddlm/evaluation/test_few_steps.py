"""The bound for several positions a step, against closed forms and enumeration."""

import math

import numpy as np
import pytest
import torch

from ddlm.data.packing import Rows
from ddlm.diffusion.view import everywhere
from ddlm.evaluation.few_steps import bound_in_steps, counts
from ddlm.evaluation.sweep import Sweep

VOCAB_SIZE, SEQ_LEN = 2, 3
ROW = [1, 0, 1]


def rows_of(tokens):
    tokens = np.array(tokens, dtype=np.int32)
    lengths = np.full(len(tokens), tokens.shape[1])
    return Rows(tokens, lengths, lengths)


class Exact:
    """The true conditionals of a distribution over all rows."""

    def __init__(self):
        weights = (
            torch.rand([VOCAB_SIZE] * SEQ_LEN, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
        )
        self.joint = weights / weights.sum()

    def __call__(self, ids):
        return torch.stack([self.one(row.tolist()) for row in ids])

    def one(self, row):
        seen = self.joint[tuple(slice(None) if id == VOCAB_SIZE else slice(id, id + 1) for id in row)]
        given = [seen.sum([axis for axis in range(SEQ_LEN) if axis != place]).flatten() for place in range(SEQ_LEN)]
        return torch.stack([values.log() if len(values) > 1 else torch.zeros(VOCAB_SIZE) for values in given])

    def nats(self, place, masked):
        """-log p(the row's token there | what is not masked)."""
        ids = [VOCAB_SIZE if at in masked else ROW[at] for at in range(SEQ_LEN)]
        return -self.one(ids)[place].log_softmax(-1)[ROW[place]].item()


def nats_of(network, steps, masks=2, copies=1):
    """Mean over copies of the row, each with masks of its own."""
    rows = rows_of([ROW] * copies)
    wanted = {"num_sampling_steps": steps, "mask_id": VOCAB_SIZE, "masks_per_row": masks, "seed": 0}
    found = bound_in_steps(everywhere(network), rows, **wanted, sweep=Sweep(batch_size=1000))
    assert found.bound == "upper"
    return found.row_nats.mean()


def test_in_one_step_every_token_is_drawn_by_itself():
    network, everything = Exact(), range(SEQ_LEN)
    assert nats_of(network, 1) == pytest.approx(sum(network.nats(place, everything) for place in everything))


def test_in_two_steps_it_is_the_mean_over_what_stands_after_the_first():
    network, everything = Exact(), range(SEQ_LEN)
    assert [part.tolist() for part in counts(SEQ_LEN, 2, "linear")] == [[3, 1], [2, 1]]
    first = 2 / 3 * sum(network.nats(place, everything) for place in everything)
    second = sum(network.nats(place, [place]) for place in everything) / SEQ_LEN
    assert nats_of(network, 2, masks=20, copies=150) == pytest.approx(first + second, abs=0.03)


def test_more_steps_find_the_row_likelier_where_tokens_depend_on_each_other():
    one, two, three = (nats_of(Exact(), steps, masks=20, copies=150) for steps in (1, 2, 3))
    assert one > two > three
    assert three == pytest.approx(-Exact().joint[tuple(ROW)].log().item(), abs=0.03)


@pytest.mark.parametrize("steps", [1, 2, 3, 99])
def test_a_uniform_model_needs_log_v_for_each_token_in_any_number_of_steps(steps):
    found = nats_of(lambda ids: torch.zeros(*ids.shape, VOCAB_SIZE), steps, masks=12)
    assert found == pytest.approx(SEQ_LEN * math.log(VOCAB_SIZE))


def test_every_position_is_opened_once():
    for steps in (1, 7, 16, 64):
        for grid in ("linear", "cosine"):
            masked, opened = counts(64, steps, grid)
            assert opened.sum() == 64
            assert masked[0] == 64
            assert (masked[1:] == masked[:-1] - opened[:-1]).all()


def test_a_rows_masks_depend_on_its_number_alone():
    rows = rows_of([ROW, [0, 0, 0]])
    wanted = {"num_sampling_steps": 2, "mask_id": VOCAB_SIZE, "masks_per_row": 8, "seed": 0}
    both, first = (bound_in_steps(everywhere(Exact()), some, **wanted).row_nats for some in (rows, rows[:1]))
    assert both[0] == first[0]
