"""The forward process and the objective, as mathematics."""

import itertools
import math

import pytest
import torch

from ddlm.diffusion.noise import SCHEDULES, mask_exactly, num_masked, stratified_times
from ddlm.diffusion.objective import WEIGHTINGS, masked_nats


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_a_schedule_goes_from_clean_to_mask_and_knows_its_derivative_and_inverse(schedule: object) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64, requires_grad=True)
    alpha = schedule.alpha(t)  # type: ignore[attr-defined]
    assert alpha[[0, -1]].tolist() == [1, 0]
    assert (alpha.diff() < 0).all()
    (slope,) = torch.autograd.grad(alpha.sum(), t)
    assert torch.allclose(slope, schedule.dalpha(t))  # type: ignore[attr-defined]
    assert torch.allclose(schedule.inverse(alpha), t)  # type: ignore[attr-defined]


def test_times_are_stratified() -> None:
    t = stratified_times(64, torch.Generator().manual_seed(0))
    assert ((t > 0) & (t <= 1)).all()
    assert torch.equal(torch.ceil(t.sort().values * 64), torch.arange(1.0, 65.0))


def test_counts_are_exact_and_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    count = num_masked(1 - stratified_times(8000, generator), 8)
    assert count.bincount().tolist()[1:] == [1000] * 8
    is_masked = mask_exactly(count, 8, generator)
    assert torch.equal(is_masked.sum(1), count)
    share = is_masked[count == 4].float().mean(0)
    assert torch.allclose(share, torch.full((8,), 0.5), atol=0.06)


def any_order_bound(denoise: object, x_0: torch.Tensor) -> float:
    """E over orders of -Σ log p(next | so far), by going through every order."""
    length = x_0.shape[1]
    orders = list(itertools.permutations(range(length)))
    total = 0.0
    for order in orders:
        hidden = torch.ones(1, length, dtype=torch.bool)
        for position in order:
            logits = denoise(x_0.masked_fill(hidden, 2))  # type: ignore[operator]
            total -= float(torch.log_softmax(logits[0, position], -1)[x_0[0, position]])
            hidden[0, position] = False
    return total / len(orders)


def test_the_row_bound_is_unbiased_for_the_any_order_bound() -> None:
    table = torch.randn(27, 3, 2, generator=torch.Generator().manual_seed(1))

    def denoise(ids: torch.Tensor) -> torch.Tensor:
        return table[(ids * torch.tensor([9, 3, 1])).sum(1)]

    x_0 = torch.tensor([[0, 1, 1]])
    estimates = []
    for k in (1, 2, 3):
        subsets = list(itertools.combinations(range(3), k))
        for subset in subsets:
            hidden = torch.zeros(1, 3, dtype=torch.bool)
            hidden[0, list(subset)] = True
            values = masked_nats(denoise(x_0.masked_fill(hidden, 2))[hidden], x_0, hidden)
            estimates.append((float(values.row_bound()), 1 / (3 * len(subsets))))
    expected = sum(value * weight for value, weight in estimates)
    assert expected == pytest.approx(any_order_bound(denoise, x_0), rel=1e-5)


def test_a_uniform_model_costs_log_v_under_every_weighting() -> None:
    x_0 = torch.randint(0, 7, (4, 10))
    is_masked = mask_exactly(torch.tensor([1, 3, 7, 10]), 10, torch.Generator().manual_seed(0))
    values = masked_nats(torch.zeros(int(is_masked.sum()), 7), x_0, is_masked)
    for weighting in WEIGHTINGS.values():
        assert float(weighting(values)) == pytest.approx(math.log(7), rel=1e-6)
    assert torch.allclose(values.row_bound(), torch.full((4,), 10 * math.log(7)))


def test_the_weightings_differ_where_crowded_rows_are_harder() -> None:
    x_0 = torch.zeros(2, 4, dtype=torch.long)
    is_masked = torch.tensor([[True, False, False, False], [True, True, True, True]])
    logits = torch.tensor([[9.0, 0.0], [0.0, 9.0], [0.0, 9.0], [0.0, 9.0], [0.0, 9.0]])
    values = masked_nats(logits, x_0, is_masked)
    assert float(WEIGHTINGS["bound"](values)) == pytest.approx(4.5, abs=0.01)
    assert float(WEIGHTINGS["plain"](values)) == pytest.approx(7.2, abs=0.01)
