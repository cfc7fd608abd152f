"""The objective: the bound by enumeration, the other weightings, and the fused cross-entropy against plain autograd."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ddlm.diffusion import ObjectiveConfig
from ddlm.diffusion.noise import SCHEDULES, complement, count_probability, draw_noise
from ddlm.diffusion.objective import (
    CHUNK_BYTES,
    WEIGHTINGS,
    bound_weights,
    linear_cross_entropy,
    token_weights,
    weighting_of,
)

LENGTH = 3
NAMES = [(schedule, complementary) for schedule in SCHEDULES for complementary in (False, True)]


def objective(schedule: str = "linear", weighting: str = "bound", complementary: bool = False) -> ObjectiveConfig:
    document = {"schedule": schedule, "weighting": weighting, "complementary": complementary}
    return ObjectiveConfig.model_validate(document)


def arbitrary_joint() -> Tensor:
    """Probabilities of the 27 sequences of 3 tokens from 3, as a 3 × 3 × 3 table."""
    weights = torch.rand(27, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 3
    return (weights / weights.sum()).reshape(3, 3, 3)


def nats_of_masked(joint: Tensor, x_0: tuple[int, ...], is_masked: Tensor) -> Tensor:
    """-log p(x_i | what is visible) of each masked position under the joint's own conditionals."""
    visible = tuple(slice(None) if hidden else token for hidden, token in zip(is_masked, x_0, strict=True))
    rest = joint[visible]
    positions = is_masked.nonzero()[:, 0].tolist()
    joints = [rest.movedim(axis, 0)[x_0[position]].sum() for axis, position in enumerate(positions)]
    return -(torch.stack(joints) / rest.sum()).log()


def some_denoiser(is_masked: Tensor) -> Tensor:
    """The nats of a denoiser whose conditionals belong to no joint: arbitrary for each mask and position."""
    table = torch.rand(2**LENGTH, LENGTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return table[int((is_masked * 2 ** torch.arange(LENGTH)).sum()), is_masked]


def any_order_bound(nats: Callable[[Tensor], Tensor]) -> float:
    """E over orders of -Σ log p(next | so far), by going through every order."""
    orders = list(itertools.permutations(range(LENGTH)))
    total = 0.0
    for order in orders:
        hidden = torch.ones(LENGTH, dtype=torch.bool)
        for position in order:
            total += float(nats(hidden)[int(hidden[:position].sum())])
            hidden[position] = False
    return total / len(orders)


def masks(config: ObjectiveConfig) -> Iterator[tuple[float, list[Tensor]]]:
    """Every mask that a row can get, alone or with its complement, and how probable it is."""
    first = count_probability(config.model_copy(update={"complementary": False}), LENGTH)
    for k in range(1, LENGTH + 1):
        subsets = list(itertools.combinations(range(LENGTH), k))
        for subset in subsets:
            is_masked = torch.zeros(1, LENGTH, dtype=torch.bool)
            is_masked[0, list(subset)] = True
            rows = [is_masked[0], complement(is_masked)[0]] if config.complementary else [is_masked[0]]
            yield float(first[k - 1]) / len(subsets), rows


def expected(config: ObjectiveConfig, weights: Callable[[Tensor], Tensor], nats: Callable[[Tensor], Tensor]) -> float:
    """E over masks of the sum over a row's masks of weight · Σ nats."""
    total = 0.0
    for probability, rows in masks(config):
        weight = weights(torch.stack([row.sum() for row in rows]))
        sums = torch.stack([nats(row).sum() for row in rows])
        total += probability * float((weight * sums).sum())
    return total


@pytest.mark.parametrize(("schedule", "complementary"), NAMES)
@pytest.mark.parametrize("x_0", [(0, 1, 2), (2, 2, 0)])
def test_the_bound_is_the_any_order_bound_under_every_schedule_and_with_complements(
    schedule: str, complementary: bool, x_0: tuple[int, ...]
) -> None:
    config, joint = objective(schedule, complementary=complementary), arbitrary_joint()

    def nats(is_masked: Tensor) -> Tensor:
        return nats_of_masked(joint, x_0, is_masked)

    assert any_order_bound(nats) == pytest.approx(-math.log(joint[x_0]))  # by its own conditionals it is tight
    for denoiser in (nats, some_denoiser):
        exact = any_order_bound(denoiser)
        estimate = expected(config, lambda count: bound_weights(config, count, LENGTH), denoiser)
        assert estimate / (1 + complementary) == pytest.approx(exact, rel=1e-6)
        loss = expected(config, lambda count: token_weights(config, count, LENGTH), denoiser)
        assert loss * LENGTH == pytest.approx(exact, rel=1e-6)


MEAN_DIFFICULTY = (1 + 4 + 9) / 3


def difficulty(is_masked: Tensor) -> Tensor:
    """No model's nats, but they grow with the masked share, so that weightings can be told apart."""
    return is_masked.sum().double().square().expand(int(is_masked.sum()))


def test_the_bound_of_any_denoiser_does_not_depend_on_the_schedule() -> None:
    values = {
        expected(config, lambda count, config=config: token_weights(config, count, LENGTH), difficulty)  # type: ignore[misc]
        for config in (objective(schedule, complementary=twice) for schedule, twice in NAMES)
    }
    assert max(values) - min(values) < 1e-6
    assert max(values) == pytest.approx(MEAN_DIFFICULTY)


@pytest.mark.parametrize("complementary", [False, True])
def test_a_uniform_model_costs_log_v_a_position_in_every_row(complementary: bool) -> None:
    config = objective(complementary=complementary)
    noise = draw_noise(config, seed=0, step=0, batch_size=32, seq_len=256)
    nats = noise.count * math.log(8192)
    estimates = nats * bound_weights(config, noise.count, 256)
    torch.testing.assert_close(estimates, torch.full_like(estimates, 256 * math.log(8192)), rtol=1e-6, atol=0)
    for name in ("bound", "plain"):
        loss = (nats * token_weights(objective("linear", name, complementary), noise.count, 256)).sum()
        assert float(loss) == pytest.approx(math.log(8192), rel=1e-6)


def test_only_the_bound_is_called_one_and_only_it_has_its_expectation() -> None:
    assert {name: weighting.metric for name, weighting in WEIGHTINGS.items()} == {
        "bound": "nelbo_nats",
        "plain": "plain_nats",
        "clipped": "clipped_nats",
        "bell": "bell_nats",
    }
    for name, weighting in WEIGHTINGS.items():
        config = ObjectiveConfig.model_validate(
            {"schedule": "cosine", "weighting": name, "weight_clip": 1.0 if name == "clipped" else None}
        )
        loss = expected(config, lambda count, config=config: token_weights(config, count, LENGTH), difficulty)  # type: ignore[misc]
        assert weighting.is_bound == (loss == pytest.approx(MEAN_DIFFICULTY, rel=1e-6))


def test_the_bound_weighs_a_token_by_the_inverse_of_the_masked_share() -> None:
    count = torch.tensor([1, 2, 4, 8])
    assert token_weights(objective(), count, 8).tolist() == pytest.approx([1 / 4, 1 / 8, 1 / 16, 1 / 32])
    assert bound_weights(objective(), count, 8).tolist() == pytest.approx([8, 4, 2, 1])


def test_the_clipped_weight_is_the_bound_s_up_to_the_cap() -> None:
    count = torch.tensor([1, 2, 4, 8])
    config = ObjectiveConfig(weighting="clipped", weight_clip=3)
    per_token = token_weights(config, count, 8) * 4 * 8
    assert per_token.tolist() == pytest.approx([3, 3, 2, 1])
    assert token_weights(ObjectiveConfig(weighting="clipped"), count, 8).equal(token_weights(objective(), count, 8))


def test_plain_weighs_all_masked_tokens_of_the_global_batch_alike() -> None:
    for schedule in SCHEDULES:
        weights = token_weights(objective(schedule, "plain"), torch.tensor([1, 4]), 4)
        assert weights.tolist() == pytest.approx([1 / 5, 1 / 5])


def test_the_bell_is_a_density_that_favours_half_masked_rows_and_drops_the_schedule() -> None:
    emphasis = WEIGHTINGS["bell"].emphasis
    assert emphasis is not None
    q = emphasis(objective(), 100)
    assert float(q.sum()) == pytest.approx(1)
    assert (q > 0).all()
    torch.testing.assert_close(q, q.flip(0))
    share = 0.305  # the middle of an interval
    density = math.exp(-(math.log(share / (1 - share)) ** 2) / 2) / (math.sqrt(2 * math.pi) * share * (1 - share))
    assert float(q[30]) * 100 == pytest.approx(density, rel=1e-3)
    losses = [
        expected(config, lambda count, config=config: token_weights(config, count, LENGTH), difficulty)  # type: ignore[misc]
        for config in (objective(schedule, "bell", twice) for schedule, twice in NAMES)
    ]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-6)


def test_a_floor_under_the_bell_is_the_bound_s_density_in_its_share() -> None:
    emphasis, uniform = WEIGHTINGS["bell"].emphasis, WEIGHTINGS["bound"].emphasis
    assert emphasis is not None
    assert uniform is not None
    bell, even = emphasis(objective(), 100), uniform(objective(), 100)
    torch.testing.assert_close(emphasis(ObjectiveConfig(bell_floor=0.25), 100), 0.75 * bell + 0.25 * even)
    assert emphasis(ObjectiveConfig(bell_floor=1.0), 100).equal(even)


def test_the_twin_weighs_every_position_alike_and_its_sum_is_the_likelihood_itself() -> None:
    twin = ObjectiveConfig(kind="autoregressive")
    count = draw_noise(twin, seed=0, step=0, batch_size=6, seq_len=8).count
    weights = token_weights(twin, count, 8)
    assert len(weights.unique()) == 1
    assert float((weights * count).sum()) == pytest.approx(1)
    assert bound_weights(twin, count, 8).tolist() == [1.0] * 6
    assert weighting_of(twin).metric == "autoregressive_nats"
    assert weighting_of(ObjectiveConfig()).metric == "bell_nats"
    assert not weighting_of(twin).is_bound


@pytest.mark.parametrize(
    "given",
    [
        {"schedule": "cosine"},
        {"weighting": "bound"},
        {"complementary": True},
        {"bell_floor": 0.1},
        {"schedule": "polynomial", "schedule_power": 3.0},
    ],
)
def test_what_has_no_effect_on_the_twin_is_refused(given: dict[str, Any]) -> None:
    ObjectiveConfig(**given)
    name = next(iter(given))
    with pytest.raises(ValidationError, match=f"{name} .* has no effect with kind autoregressive; leave it out"):
        ObjectiveConfig(kind="autoregressive", **given)
    assert ObjectiveConfig(kind="autoregressive", truncation_share=0.5).truncation_share == 0.5


def case(n: int = 50, v: int = 37, d: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, d, generator=generator).to(dtype).requires_grad_()
    weight = (torch.randn(v, d, generator=generator) / d**0.5).to(dtype).requires_grad_()
    token_weight = torch.rand(n, generator=generator).to(dtype)
    return hidden, weight, torch.randint(0, v, (n,), generator=generator), token_weight


def plain_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, token_weight: Tensor, soft_cap: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    logits = F.linear(hidden, weight).float()
    logits = soft_cap * torch.tanh(logits / soft_cap) if soft_cap else logits
    nats = F.cross_entropy(logits, targets, reduction="none")
    return (nats * token_weight).sum(), nats, logits.argmax(1) == targets


def close(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Closer than `tolerance` of the largest entry."""
    assert got.dtype == wanted.dtype
    assert float((got - wanted).detach().abs().max()) <= tolerance * float(wanted.detach().abs().max())


@pytest.mark.parametrize("soft_cap", [None, 3.0])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 50, None])
def test_the_fused_cross_entropy_is_plain_autograd_s_whatever_the_chunk(
    chunk_tokens: int | None, soft_cap: float | None
) -> None:
    arguments = case()
    loss, nats, is_hit = linear_cross_entropy(*arguments, soft_cap, chunk_tokens=chunk_tokens)
    wanted, wanted_nats, wanted_hit = plain_cross_entropy(*arguments, soft_cap)
    close(loss, wanted, 1e-6)
    close(nats, wanted_nats.detach(), 1e-6)
    assert torch.equal(is_hit, wanted_hit)
    assert not nats.requires_grad
    for got, gradient in zip(
        torch.autograd.grad(3 * loss, arguments[:2]), torch.autograd.grad(3 * wanted, arguments[:2]), strict=True
    ):
        close(got, gradient, 1e-6)


@pytest.mark.parametrize("soft_cap", [None, 30.0])
def test_under_autocast_products_are_bfloat16_and_the_rest_is_exact(soft_cap: float | None) -> None:
    arguments = case(n=200, v=300, d=64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, nats, _ = linear_cross_entropy(*arguments, soft_cap, chunk_tokens=64)
        _, wanted_nats, _ = plain_cross_entropy(*arguments, soft_cap)
    close(nats, wanted_nats.detach(), 1e-6)  # the same bfloat16 logits, then float32
    exact, _, _ = plain_cross_entropy(*arguments, soft_cap)
    close(loss, exact, 1e-3)
    for got, gradient in zip(
        torch.autograd.grad(loss, arguments[:2]), torch.autograd.grad(exact, arguments[:2]), strict=True
    ):
        close(got, gradient, 1e-2)


def test_bfloat16_states_meet_a_float32_weight_under_autocast() -> None:
    hidden, weight, targets, token_weight = case()
    half = hidden.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _, _ = linear_cross_entropy(half, weight, targets, token_weight)
    loss.backward()  # type: ignore[no-untyped-call]
    assert half.grad is not None
    assert weight.grad is not None
    assert (half.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("soft_cap", [None, 30.0])
def test_the_gradient_agrees_with_finite_differences(soft_cap: float | None) -> None:
    hidden, weight, targets, token_weight = case(n=5, v=6, d=4, dtype=torch.float64)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight * 10, targets, token_weight, soft_cap, chunk_tokens=2)[0]

    assert torch.autograd.gradcheck(loss, (hidden, weight))


def test_large_logits_keep_finite_nats_and_gradients() -> None:
    hidden = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss, nats, _ = linear_cross_entropy(hidden, weight, torch.tensor([1, 1]), torch.ones(2))
    assert nats.tolist() == [2000, 0]
    loss.backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert hidden.grad[:, 0].tolist() == [2, 0]


def test_equal_logits_hit_their_first_token_only() -> None:
    hidden, weight = torch.ones(3, 2), torch.zeros(5, 2)
    _, nats, is_hit = linear_cross_entropy(hidden, weight, torch.tensor([0, 1, 4]), torch.ones(3))
    assert is_hit.tolist() == [True, False, False]
    assert nats.tolist() == pytest.approx([math.log(5)] * 3)


def test_no_tokens_cost_nothing() -> None:
    hidden, weight, targets, token_weight = case(n=0)
    loss, nats, is_hit = linear_cross_entropy(hidden, weight, targets, token_weight)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert (len(nats), len(is_hit)) == (0, 0)
    assert weight.grad is not None
    assert not weight.grad.any()


class Allocations(TorchDispatchMode):
    """Records the size of every tensor that an operation returns, and which operations ran."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.products = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket is torch.ops.aten.mm
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


@pytest.mark.parametrize("autocast", [False, True])
def test_no_tensor_of_all_logits_ever_exists(autocast: bool) -> None:
    arguments = case(n=2048, v=8192, d=16)
    with Allocations() as seen, torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss, _, _ = linear_cross_entropy(*arguments, 30.0)
        loss.backward()  # type: ignore[no-untyped-call]
    assert seen.largest <= CHUNK_BYTES["cpu"] // 4


def test_without_gradient_the_logits_are_the_only_product() -> None:
    arguments = case(n=40)
    with torch.no_grad(), Allocations() as alone:
        loss, nats, _ = linear_cross_entropy(*arguments, chunk_tokens=10)
    assert not loss.requires_grad
    assert alone.products == 4
    close(nats, plain_cross_entropy(*arguments, None)[1].detach(), 1e-6)
    with Allocations() as with_gradient:
        linear_cross_entropy(*arguments, chunk_tokens=10)
    assert with_gradient.products == 12
