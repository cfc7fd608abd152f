"""Optimizers, the learning rate over steps, the moving average."""

import pytest
import torch

from ddlm.model import ModelConfig
from ddlm.model.transformer import Denoiser
from ddlm.training import TrainingConfig
from ddlm.training.ema import MovingAverage
from ddlm.training.optimizer import clip, groups, learning_rate_ratio, make_optimizers, set_learning_rate


def model(tied: bool = False) -> Denoiser:
    return Denoiser(ModelConfig(d_model=16, num_layers=2, num_heads=2, tied_head=tied), vocab_size=20, seq_len=8)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_in_exactly_one_group(optimizer: str, tied: bool) -> None:
    denoiser = model(tied)
    config = TrainingConfig(optimizer=optimizer)  # type: ignore[arg-type]
    held = [id(p) for group in groups(make_optimizers(denoiser, config)) for p in group["params"]]  # type: ignore[attr-defined]
    assert sorted(held) == sorted(id(p) for p in denoiser.parameters())


def test_norm_weights_are_not_decayed() -> None:
    for group in groups(make_optimizers(model(), TrainingConfig(weight_decay=0.3))):
        is_vectors = group["params"][0].ndim < 2  # type: ignore[index]
        assert group["weight_decay"] == (0.0 if is_vectors else 0.3)


def test_the_learning_rate_warms_up_from_above_zero_and_decays_to_its_floor() -> None:
    config = TrainingConfig(steps=100, warmup_steps=9, final_learning_rate_ratio=0.1)
    assert learning_rate_ratio(0, 0.0, config) == pytest.approx(0.1)
    assert learning_rate_ratio(8, 0.0, config) == pytest.approx(0.9)
    assert learning_rate_ratio(9, 0.0, config) == pytest.approx(1.0)
    assert learning_rate_ratio(99, 1.0, config) == pytest.approx(0.1)
    linear = config.model_copy(update={"decay": "linear"})
    assert learning_rate_ratio(50, 0.5, linear) == pytest.approx(0.55)
    constant = config.model_copy(update={"decay": "constant"})
    assert learning_rate_ratio(99, 1.0, constant) == 1.0


def test_each_group_keeps_its_own_peak() -> None:
    optimizers = make_optimizers(model(), TrainingConfig(optimizer="muon", learning_rate=1e-3, muon_learning_rate=0.02))
    set_learning_rate(optimizers, 0.5)
    assert sorted({group["lr"] for group in groups(optimizers)}) == [5e-4, 0.01]


def test_a_gradient_that_is_not_finite_stops_training() -> None:
    denoiser = model()
    for parameter in denoiser.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    with pytest.raises(ValueError, match="training diverged"):
        clip(denoiser, 1.0)


def test_the_moving_average_follows_its_formula_in_float32() -> None:
    denoiser = model().to(torch.bfloat16)
    average = MovingAverage(denoiser, 0.9)
    before = average.shadow["norm.weight"].clone()
    with torch.no_grad():
        denoiser.norm.weight += 1.0
    average.update(denoiser, 10**6)
    assert average.shadow["norm.weight"].dtype == torch.float32
    assert torch.allclose(average.shadow["norm.weight"], 0.9 * before + 0.1 * denoiser.norm.weight.float())


def test_early_on_the_moving_average_forgets_the_start() -> None:
    denoiser = model()
    average = MovingAverage(denoiser, 0.9999)
    with torch.no_grad():
        denoiser.norm.weight += 1.0
    average.update(denoiser, 1)
    assert torch.allclose(average.shadow["norm.weight"], denoiser.norm.weight - 2 / 11)
