"""The moving average of the weights."""

import torch
from torch import nn

from ddlm.training.ema import MovingAverage


def weights(value: float, dtype: torch.dtype = torch.float32) -> nn.Linear:
    layer = nn.Linear(3, 2, dtype=dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(value)
    return layer


def moved(average: MovingAverage, layer: nn.Linear, step: int) -> float:
    """The shadow after one update by weights that are 1 more than before."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 1.0
    average.update(layer, step)
    (value,) = {float(value) for shadow in average.shadow.values() for value in shadow.flatten()}
    return value


def test_it_follows_its_formula() -> None:
    layer = weights(2.0)
    assert abs(moved(MovingAverage(layer, 0.9), layer, 10**6) - (0.9 * 2.0 + 0.1 * 3.0)) < 1e-6


def test_early_on_it_forgets_the_start() -> None:
    layer = weights(2.0)
    assert abs(moved(MovingAverage(layer, 0.9999), layer, 1) - (3.0 - 2 / 11)) < 1e-6


def test_the_average_of_a_bfloat16_model_moves() -> None:
    """Its step, 0.001 of the value, is less than half of what bfloat16 resolves at 2."""
    layer = weights(2.0, torch.bfloat16)
    average = MovingAverage(layer, 0.999)
    assert abs(moved(average, layer, 10**6) - 2.001) < 1e-5
    assert {shadow.dtype for shadow in average.shadow.values()} == {torch.float32}


def test_it_is_no_view_of_the_weights() -> None:
    layer = weights(2.0)
    average = MovingAverage(layer, 0.9)
    with torch.no_grad():
        layer.weight.fill_(5.0)
    assert float(average.shadow["weight"][0, 0]) == 2.0
