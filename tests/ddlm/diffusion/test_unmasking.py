"""Policies against enumeration and closed forms."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ddlm.diffusion import SAMPLING_PARAMETERS, SamplingConfig
from ddlm.diffusion.sampler import sample
from ddlm.diffusion.tokens import Draw
from ddlm.diffusion.unmasking import POLICIES, REWRITING, masked_share
from ddlm.diffusion.view import Move, View, choose, everywhere

MASK = 4


def view_of(logits: Tensor, draw: Draw, *, left: int | None = None, steps: int = 4, taken: int = 0) -> View:
    """One row, all of it masked, before a step at which the grid would open one position."""
    ids = torch.full(logits.shape[:2], MASK)
    rows, masks = len(ids), left or ids.shape[1]
    return View(
        everywhere(lambda _: logits), ids, is_free=ids == MASK, is_masked=ids == MASK, draw=draw,
        step=torch.zeros(rows, dtype=torch.long), left=[masks] * rows, taken=taken, steps=[steps] * rows,
        count=[1] * rows, written=[0.0] * rows,
    )  # fmt: skip


def probabilities(*best: float) -> Tensor:
    """Logits of positions whose best token, of four, has this probability, the others the same each."""
    rows = [[p, *[(1 - p) / 3] * 3] for p in best]
    return torch.tensor([rows], dtype=torch.float64).log().float()


def opened(move: Move) -> list[int]:
    return move.opened[0].nonzero()[:, 0].tolist()  # type: ignore[no-any-return]


def test_the_table_names_every_policy_of_the_configuration_and_each_has_a_text() -> None:
    assert set(SamplingConfig.model_fields["unmasking"].annotation.__args__) == set(POLICIES)  # type: ignore[union-attr]
    assert all(policy.__doc__ for policy in POLICIES.values())
    assert set(POLICIES) > REWRITING


def test_confidence_margin_and_entropy_differ_where_they_should(draw_of: Callable[..., Draw]) -> None:
    sure = [0.50, 0.48, 0.01, 0.01]  # the best token is likely, but so is the next
    apart = [0.45, 0.19, 0.18, 0.18]  # the widest margin
    flat = [0.40, 0.40, 0.20, 0.0]  # the lowest entropy but for the first, and no margin
    logits = torch.tensor([[apart, sure, flat]]).clamp(min=1e-30).log()
    first = {name: opened(POLICIES[name](view_of(logits, draw_of(1)))) for name in ("confidence", "margin", "entropy")}
    assert first == {"confidence": [1], "margin": [0], "entropy": [1]}


def test_ties_go_to_the_lower_position_and_certainty_does_not_round_to_one(draw_of: Callable[..., Draw]) -> None:
    assert opened(POLICIES["confidence"](view_of(torch.zeros(1, 3, 4), draw_of(1)))) == [0]
    logits = torch.zeros(1, 3, 4)
    logits[0, :, 0] = torch.tensor([20.0, 24.0, 22.0])  # every softmax is 1 in float32
    assert (logits.softmax(-1)[..., 0] == 1).all()
    assert opened(POLICIES["confidence"](view_of(logits, draw_of(1)))) == [1]


def test_threshold_opens_all_that_is_certain_enough_one_at_least_and_no_more_than_allowed(
    draw_of: Callable[..., Draw],
) -> None:
    logits = probabilities(0.95, 0.5, 0.92, 0.85)

    def chosen(**settings: object) -> list[int]:
        return opened(POLICIES["threshold"](view_of(logits, draw_of(1, unmasking="threshold", **settings))))

    assert chosen() == [0, 2]
    assert chosen(threshold=0.8) == [0, 2, 3]
    assert chosen(threshold=0.99) == [0]
    assert chosen(threshold=0.8, most_per_step=2) == [0, 2]


def test_threshold_keeps_pace_where_steps_run_out(draw_of: Callable[..., Draw]) -> None:
    view = view_of(probabilities(0.95, 0.5, 0.6, 0.7), draw_of(1, unmasking="threshold"))
    assert opened(POLICIES["threshold"](replace(view, count=[2]))) == [0, 3]


@pytest.mark.parametrize("bound", [0.0, 0.3, 0.9, 2.0, 50.0])
def test_entropy_bound_opens_the_largest_set_that_the_bound_allows(bound: float, draw_of: Callable[..., Draw]) -> None:
    logits = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(1)) * 3
    entropy = torch.distributions.Categorical(logits=logits[0].double()).entropy()

    def allowed(positions: Sequence[int]) -> bool:
        values = entropy[list(positions)]
        return float(values.sum() - values.max()) <= bound

    sets = [s for n in range(1, 7) for s in itertools.combinations(range(6), n) if allowed(s)]
    largest = max(map(len, sets))
    best = min((s for s in sets if len(s) == largest), key=lambda s: float(entropy[list(s)].sum()))
    view = view_of(logits, draw_of(1, unmasking="entropy_bound", entropy_bound=bound), steps=6)
    assert opened(POLICIES["entropy_bound"](view)) == sorted(best)


def test_where_ends_come_last_they_wait_for_every_other_token(draw_of: Callable[..., Draw]) -> None:
    logits = probabilities(0.9, 0.3, 0.4)  # the best token is token 0 everywhere
    logits[0, 1] = logits[0, 1].roll(1)
    for unmasking in ("confidence", "margin", "entropy", "threshold", "entropy_bound"):
        view = view_of(logits, draw_of(1, unmasking=unmasking, ends="last", end_id=0))
        assert opened(POLICIES[unmasking](view)) == [1]


@pytest.mark.parametrize("unmasking", ["random", "first_hitting"])
def test_a_random_order_is_even_over_all_orders(unmasking: str, draw_of: Callable[..., Draw]) -> None:
    count, orders = 6000, dict.fromkeys(itertools.permutations(range(3)), 0)
    firsts: list[Tensor] = []
    denoiser = everywhere(lambda ids: torch.zeros(*ids.shape, 4))
    draw = draw_of(count, end_id=-1, unmasking=unmasking, num_sampling_steps=3)  # no token ends a text
    sample(denoiser, torch.full((count, 3), MASK), MASK, draw, lambda step: firsts.append(step.opened))
    for row in torch.stack([table.float().argmax(1) for table in firsts[1:]], dim=1).tolist():
        orders[tuple(row)] += 1
    assert min(orders.values()) > count / 6 * 0.85


def test_left_to_right_reads(draw_of: Callable[..., Draw]) -> None:
    assert opened(POLICIES["left_to_right"](view_of(torch.randn(1, 5, 4), draw_of(1)))) == [0]


@pytest.mark.parametrize(("unmasking", "share"), [("remdm_cap", 0.03), ("remdm_rescale", 0.5)])
def test_remasking_opens_and_masks_with_the_probabilities_of_the_paper(
    unmasking: str, share: float, draw_of: Callable[..., Draw]
) -> None:
    rows, length = 2000, 20
    draw = draw_of(rows, unmasking=unmasking, remask_share=share)
    whole = view_of(torch.zeros(rows, length, 4), draw, steps=10, taken=4)
    is_masked = (torch.arange(length) < 12).expand(rows, length)
    move = POLICIES[unmasking](replace(whole, is_masked=is_masked))
    alpha_t, alpha_s = 0.4, 0.5
    largest = min(1, (1 - alpha_s) / alpha_t)
    sigma = min(share, largest) if unmasking == "remdm_cap" else share * largest
    to_open = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
    assert move.remasked is not None
    assert float(move.opened[:, :12].float().mean()) == pytest.approx(to_open, rel=0.06)
    assert float(move.remasked[:, 12:].float().mean()) == pytest.approx(sigma, rel=0.06)
    assert not move.opened[:, 12:].any()
    assert not move.remasked[:, :12].any()


def test_remdm_loop_exchanges_in_the_middle_and_only_there(draw_of: Callable[..., Draw]) -> None:
    def remasked(taken: int) -> float:
        view = view_of(torch.zeros(500, 40, 4), draw_of(500, unmasking="remdm_loop"), steps=100, taken=taken)
        move = POLICIES["remdm_loop"](replace(view, is_masked=torch.zeros(500, 40, dtype=torch.bool)))
        assert move.remasked is not None
        return float(move.remasked.float().mean())

    assert remasked(20) == remasked(97) == 0
    assert remasked(60) == pytest.approx(0.02, rel=0.1)


def test_revise_draws_all_anew_and_keeps_the_likeliest(draw_of: Callable[..., Draw]) -> None:
    logits = probabilities(0.9, 0.99, 0.5, 0.95)
    view = replace(view_of(logits, draw_of(1, unmasking="revise", temperature=0.0)), rewrites=True, count=[2])
    move = POLICIES["revise"](view)
    assert opened(move) == [1, 3]
    assert move.remasked is not None
    assert move.remasked.tolist() == [[True, False, True, False]]


def test_the_cosine_grid_starts_slowly() -> None:
    assert masked_share("linear", 0.25) == 0.75
    assert masked_share("cosine", 0.25) == pytest.approx(math.cos(math.pi / 8))
    assert masked_share("cosine", 1.0) == masked_share("linear", 1.0) == 0


def test_choose_takes_the_largest_of_the_masked() -> None:
    is_masked = torch.tensor([[True, False, True, True]])
    assert choose(torch.zeros(1, 4), is_masked, torch.tensor([2])).tolist() == [[True, False, True, False]]
    score = torch.tensor([[0.0, 9.0, 1.0, 2.0]])
    assert choose(score, is_masked, torch.tensor([2])).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("parameter", SAMPLING_PARAMETERS)
def test_a_parameter_of_another_policy_is_refused(parameter: str) -> None:
    value = 2 if parameter == "most_per_step" else 0.5
    for owner in SAMPLING_PARAMETERS[parameter]:
        SamplingConfig.model_validate({"unmasking": owner, parameter: value})
    with pytest.raises(ValidationError, match=f"{parameter} is for unmasking .*, and that is margin; leave it out"):
        SamplingConfig.model_validate({"unmasking": "margin", parameter: value})
