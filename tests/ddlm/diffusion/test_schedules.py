"""Schedules and the counts they give, as mathematics."""

import math

import pytest
import torch
from torch import Tensor

from ddlm.diffusion import ObjectiveConfig
from ddlm.diffusion.noise import SCHEDULES, count_probability, make_schedule, num_masked

CONFIGS = [
    *(ObjectiveConfig.model_validate({"schedule": name}) for name in SCHEDULES),
    ObjectiveConfig(schedule="polynomial", schedule_power=3.5),
    ObjectiveConfig(schedule="sigmoid", schedule_steepness=3),
    ObjectiveConfig(schedule="geometric", schedule_sigma=(1e-2, 8)),
]


def name_of(config: ObjectiveConfig) -> str:
    return "-".join(map(str, config.model_dump(exclude_defaults=True).values())) or "linear"


each_schedule = pytest.mark.parametrize("config", CONFIGS, ids=name_of)


@each_schedule
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_all_survives_at_zero_and_nothing_at_one_exactly(config: ObjectiveConfig, dtype: torch.dtype) -> None:
    for points in (2, 101):
        t = torch.linspace(0, 1, points, dtype=dtype)
        assert make_schedule(config).alpha(t)[[0, -1]].tolist() == [1, 0]


@each_schedule
def test_survival_falls_and_knows_its_derivative_and_its_inverse(config: ObjectiveConfig) -> None:
    schedule = make_schedule(config)
    t = torch.linspace(0, 1, 1001, dtype=torch.float64, requires_grad=True)
    alpha = schedule.alpha(t)
    assert (alpha.diff() < 0).all()
    (slope,) = torch.autograd.grad(alpha.sum(), t)
    torch.testing.assert_close(schedule.dalpha(t), slope, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(schedule.inverse(alpha), t, rtol=0, atol=2e-8)


def test_the_cosine_masks_nothing_at_first_and_little_for_long() -> None:
    t = torch.tensor([0, 1 / 3, 2 / 3, 1], dtype=torch.float64)
    masked = 1 - make_schedule(ObjectiveConfig(schedule="cosine")).alpha(t)
    assert masked.tolist() == pytest.approx([0, 1 - math.sqrt(3) / 2, 0.5, 1])


def test_the_log_linear_schedule_without_its_eps_is_the_linear_one() -> None:
    t = torch.linspace(0, 0.999, 100, dtype=torch.float64)
    schedule = make_schedule(ObjectiveConfig(schedule="log_linear"))
    for eps in (1e-3, 1e-6, 0):
        alpha = torch.exp(torch.log(1 - (1 - eps) * t))
        torch.testing.assert_close(schedule.alpha(t), alpha, rtol=0, atol=eps + 1e-12)
    assert schedule == make_schedule(ObjectiveConfig())


def test_a_sigmoid_and_a_geometric_schedule_are_their_formulas_stretched() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    logistic = torch.sigmoid(10 * (0.5 - t))
    survival = torch.exp(-(1e-4 ** (1 - t)) * 20**t)
    for name, raw in (("sigmoid", logistic), ("geometric", survival)):
        alpha = make_schedule(ObjectiveConfig.model_validate({"schedule": name})).alpha(t)
        torch.testing.assert_close(alpha, (raw - raw[-1]) / (raw[0] - raw[-1]))


def counts(config: ObjectiveConfig, seq_len: int, points: int = 200_000) -> Tensor:
    """The share of each count on a fine grid of times."""
    t = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    return num_masked(make_schedule(config).alpha(t), seq_len).bincount(minlength=seq_len + 1)[1:] / points


@each_schedule
@pytest.mark.parametrize("seq_len", [1, 3, 10])
def test_counts_come_as_often_as_their_probability_says(config: ObjectiveConfig, seq_len: int) -> None:
    probability = count_probability(config, seq_len)
    assert float(probability.sum()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(counts(config, seq_len).double(), probability, rtol=0, atol=1e-5)


@each_schedule
def test_every_count_of_a_long_row_has_a_positive_probability(config: ObjectiveConfig) -> None:
    assert (count_probability(config, 1024) > 0).all()


def test_the_linear_schedule_makes_counts_uniform_and_the_square_root_favours_crowded_rows() -> None:
    assert count_probability(ObjectiveConfig(), 5).tolist() == pytest.approx([0.2] * 5)
    squares = count_probability(ObjectiveConfig(schedule="square_root"), 3)
    assert squares.tolist() == pytest.approx([1 / 9, 3 / 9, 5 / 9])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule_power": 2.0}, "schedule_power is for schedule polynomial, and schedule is linear; leave it out"),
        ({"schedule": "cosine", "schedule_sigma": (1e-4, 20.0)}, "schedule_sigma is for schedule geometric"),
        ({"schedule": "geometric", "schedule_steepness": 9.0}, "schedule_steepness is for schedule sigmoid"),
        ({"weighting": "bell", "weight_clip": 2.0}, "weight_clip is for weighting clipped, and weighting is bell"),
        ({"weighting": "bound", "bell_floor": 0.1}, "bell_floor is for weighting bell, and weighting is bound"),
        ({"schedule": "geometric", "schedule_sigma": (20.0, 1e-4)}, "wanted 0 < smallest < largest"),
    ],
)
def test_a_parameter_of_something_that_is_not_chosen_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig.model_validate(fields)
