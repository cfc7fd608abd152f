"""Groups of parameters, the learning rate over steps, clipping."""

from typing import Any

import pytest
import torch

from ddlm.model import ModelConfig
from ddlm.model.transformer import Denoiser
from ddlm.training import GroupConfig, TrainingConfig
from ddlm.training.muon import Muon
from ddlm.training.optimizer import (
    MUON_LEARNING_RATE,
    clip,
    groups,
    learning_rate_ratio,
    make_optimizers,
    set_learning_rate,
)


def model(**config: Any) -> Denoiser:
    return Denoiser(ModelConfig(d_model=16, num_layers=2, num_heads=2, **config), vocab_size=20, seq_len=8)


def named(denoiser: Denoiser, config: TrainingConfig) -> dict[str, dict[str, Any]]:
    made = groups(make_optimizers(denoiser, config))
    assert len({group["name"] for group in made}) == len(made)
    return {group["name"]: group for group in made}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_in_exactly_one_group(optimizer: Any, tied: bool) -> None:
    denoiser = model(tied_head=tied, time_conditioning=True)
    found = named(denoiser, TrainingConfig(optimizer=optimizer))
    held = [id(parameter) for group in found.values() for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in denoiser.parameters())


def test_groups_hold_what_their_names_say() -> None:
    denoiser = model(time_conditioning=True)
    found = named(denoiser, TrainingConfig())
    assert found["embedding"]["params"] == [denoiser.embedding.weight]
    assert found["head"]["params"] == [denoiser.output.weight]
    assert all(parameter.ndim == 1 for parameter in found["scalar"]["params"])
    hidden = {id(parameter) for parameter in found["hidden"]["params"]}
    assert id(denoiser.start) not in hidden
    assert {id(parameter) for parameter in denoiser.blocks.parameters() if parameter.ndim == 2} <= hidden
    assert "head" not in named(model(tied_head=True), TrainingConfig())


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest() -> None:
    muon, adamw = make_optimizers(model(), TrainingConfig(optimizer="muon", precision="float32"))
    assert isinstance(muon, Muon)
    assert [group["name"] for group in muon.param_groups] == ["hidden"]
    assert muon.param_groups[0]["dtype"] == torch.float32
    assert all(group["fused"] for group in adamw.param_groups)
    (only,) = make_optimizers(model(), TrainingConfig(optimizer="adamw"))
    assert isinstance(only, torch.optim.AdamW)


def test_groups_take_the_general_settings() -> None:
    config = TrainingConfig(optimizer="muon", learning_rate=3e-3, weight_decay=0.3, betas=(0.8, 0.9))
    found = named(model(), config)
    assert {name: group["lr"] for name, group in found.items()} == {
        "hidden": MUON_LEARNING_RATE, "embedding": 3e-3, "head": 3e-3, "scalar": 3e-3,
    }  # fmt: skip
    assert {name: group["weight_decay"] for name, group in found.items()} == {
        "hidden": 0.3, "embedding": 0.3, "head": 0.3, "scalar": 0.0,
    }  # fmt: skip
    assert found["head"]["betas"] == (0.8, 0.9)
    assert named(model(), config.model_copy(update={"optimizer": "adamw"}))["hidden"]["lr"] == 3e-3


@pytest.mark.parametrize("name", ["hidden", "embedding", "head", "scalar"])
def test_a_group_takes_its_own_settings(name: str) -> None:
    own = GroupConfig(learning_rate=0.5, final_learning_rate_ratio=0.25, weight_decay=0.125, betas=(0.5, 0.6), eps=1e-3)
    config = TrainingConfig(optimizer="adamw", **{name: own})  # type: ignore[arg-type]
    wanted = {"lr": 0.5, "peak": 0.5, "final_ratio": 0.25, "weight_decay": 0.125, "betas": (0.5, 0.6), "eps": 1e-3}
    for found, group in named(model(), config).items():
        taken = [group[option] == value for option, value in wanted.items()]
        assert all(taken) if found == name else not any(taken)


def test_muon_takes_its_own_settings() -> None:
    own = GroupConfig(learning_rate=0.5, momentum=0.75, weight_decay=0.0, final_learning_rate_ratio=0.0)
    hidden = named(model(), TrainingConfig(optimizer="muon", hidden=own))["hidden"]
    assert (hidden["lr"], hidden["momentum"], hidden["weight_decay"], hidden["final_ratio"]) == (0.5, 0.75, 0.0, 0.0)


def test_the_learning_rate_warms_up_from_above_zero() -> None:
    config = TrainingConfig(warmup_steps=9)
    ratios = [learning_rate_ratio(step, 0.0, config, 0.1) for step in (0, 8, 9)]
    assert ratios == pytest.approx([0.1, 0.9, 1.0])


@pytest.mark.parametrize(
    ("decay", "ratios"),
    [
        ("cosine", [1.0, 0.868198, 0.55, 0.1]),
        ("linear", [1.0, 0.775, 0.55, 0.1]),
        ("wsd", [1.0, 1.0, 1.0, 0.1]),
        ("constant", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_the_learning_rate_decays_to_its_floor(decay: Any, ratios: list[float]) -> None:
    config = TrainingConfig(warmup_steps=0, decay=decay)
    assert [learning_rate_ratio(1, done, config, 0.1) for done in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(
        ratios, abs=1e-6
    )


def test_wsd_decays_linearly_over_its_last_share() -> None:
    config = TrainingConfig(warmup_steps=0, decay="wsd", decay_share=0.4)
    ratios = [learning_rate_ratio(1, done, config, 0.0) for done in (0.6, 0.7, 0.8, 0.9)]
    assert ratios == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_each_group_follows_its_own_peak_and_floor() -> None:
    head = GroupConfig(learning_rate=0.4, final_learning_rate_ratio=0.5)
    config = TrainingConfig(
        optimizer="muon", learning_rate=0.1, warmup_steps=0, decay="linear", final_learning_rate_ratio=0.0, head=head
    )
    optimizers = make_optimizers(model(), config)
    rates = set_learning_rate(optimizers, 10, 0.5, config)
    assert rates == pytest.approx({"hidden": 0.01, "embedding": 0.05, "head": 0.3, "scalar": 0.05})
    assert {group["name"]: group["lr"] for group in groups(optimizers)} == rates


def test_gradients_are_scaled_down_to_the_norm_together() -> None:
    denoiser = model()
    for parameter in denoiser.parameters():
        parameter.grad = torch.ones_like(parameter)
    count = sum(parameter.numel() for parameter in denoiser.parameters())
    norm, found_inf = clip(denoiser.parameters(), 0.5)
    assert float(norm) == pytest.approx(count**0.5)
    assert float(found_inf) == 0.0
    assert float(denoiser.norm.weight.grad[0]) == pytest.approx(0.5 / count**0.5, rel=1e-4)  # type: ignore[index]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_makes_the_step_empty(optimizer: Any, broken: float) -> None:
    denoiser = model()
    optimizers = make_optimizers(denoiser, TrainingConfig(optimizer=optimizer, weight_decay=0.5))
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    for gradient, is_skipped in ((broken, 1.0), (1.0, 0.0)):
        for parameter in denoiser.parameters():
            parameter.grad = torch.ones_like(parameter)
        denoiser.output.weight.grad[0, 0] = gradient  # type: ignore[index]
        norm, found_inf = clip(denoiser.parameters(), 1.0)
        assert (float(found_inf), bool(norm.isfinite())) == (is_skipped, not is_skipped)
        for each in optimizers:
            each.grad_scale, each.found_inf = None, found_inf  # type: ignore[attr-defined]
            each.step()
        unchanged = [torch.equal(value, before[name]) for name, value in denoiser.state_dict().items()]
        assert all(unchanged) if is_skipped else not any(unchanged)
        assert all(bool(value.isfinite().all()) for each in optimizers for value in tensors(each))


def tensors(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [value for state in optimizer.state.values() for value in state.values()]


def test_clipping_waits_for_no_value() -> None:
    """A tensor on the meta device has none: asking for it raises."""
    with torch.device("meta"):
        weight = torch.nn.Parameter(torch.empty(3, 3))
        weight.grad = torch.empty(3, 3)
        norm, found_inf = clip([weight], 1.0)
    assert (norm.shape, found_inf.shape, found_inf.dtype) == ((), (), torch.float32)
