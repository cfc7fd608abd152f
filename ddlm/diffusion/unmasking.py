"""Unmasking policies: which positions a step opens, and which it masks again.

A policy is a function of a `View`. What it does not ask for is not computed: one that never looks at a logit leaves the
head to the positions that it opens, and a step that opens nothing does not run the network.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ddlm.diffusion import tokens
from ddlm.diffusion.view import Move, View, choose

Policy = Callable[[View], Move]
LOOP_ON, LOOP_OFF, LOOP_ALPHA = 0.55, 0.05, 0.9
"""ReMDM's loop: between these times nothing but exchange, at this share of open tokens; the source's defaults."""


def masked_share(grid: str, progress: float) -> float:
    """What is masked after this share of the steps."""
    return math.cos(math.pi / 2 * progress) if grid == "cosine" and progress < 1 else 1 - progress


def random(view: View) -> Move:
    """A random order at the grid's pace: ancestral sampling of the masked process, with the counts of masks fixed to
    their means. Source: Sahoo et al., MDLM, 2024; Shi et al., MD4, 2024.
    """
    return view.at_pace(view.order)


def first_hitting(view: View) -> Move:
    """One token a step in a random order, whatever the number of steps: the process exactly, at the times of its
    events. Source: Zheng et al., 2024; the times themselves matter to no denoiser without a clock.
    """
    count = [min(1, left) for left in view.left]
    return Move(choose(view.order, view.is_masked, view.tensor(count)), count)


def left_to_right(view: View) -> Move:
    """In reading order at the grid's pace."""
    position = torch.arange(view.ids.shape[1], device=view.ids.device, dtype=torch.float64)
    return view.at_pace(-position.expand(view.ids.shape))


def confidence(view: View) -> Move:
    """The most certain position first, by its best token's probability.

    Source: Nie et al., LLaDA, 2025 (low-confidence remasking), with positions chosen before tokens are drawn.
    """
    return view.at_pace(view.score(tokens.log_odds))


def margin(view: View) -> Move:
    """First where the best token is furthest ahead of the next. Source: Kim et al., Train for the worst, 2025."""
    return view.at_pace(view.score(tokens.margin))


def entropy(view: View) -> Move:
    """The lowest entropy first. Source: Ye et al., Dream, 2025."""
    return view.at_pace(view.score(_certainty))


def threshold(view: View) -> Move:
    """All positions whose best token has the probability `threshold`. Source: Wu et al., Fast-dLLM, 2025."""
    score = view.score(tokens.log_odds)
    probability = view.draw.config.threshold or 0.9
    return view.at_least_at_pace(score, (score >= math.log(probability / (1 - probability))).sum(1))


def entropy_bound(view: View) -> Move:
    """The most positions, lowest entropies first, whose entropies but for the largest sum to at most the bound: what
    they could depend on each other. Source: Ben-Hamu et al., Entropy-bounded unmasking, 2025.
    """
    bound = 0.5 if view.draw.config.entropy_bound is None else view.draw.config.entropy_bound
    score = view.score(_certainty)
    ordered = (-score).sort(dim=1).values.clamp(min=0)
    before = ordered.cumsum(1) - ordered
    return view.at_least_at_pace(score, ((before <= bound) & ordered.isfinite()).sum(1))


def _certainty(logits: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    return -tokens.entropy(logits)


def remdm_cap(view: View) -> Move:
    """Ancestral, and each step masks a share of what is written again, at most `remask_share`.

    Source: Wang et al., ReMDM, 2025, for this and the next two.
    """
    alpha_t, alpha_s = _alphas(view)
    return _exchange(view, alpha_t, alpha_s, _most_remasked(alpha_t, alpha_s).clamp(max=_remask_share(view, 0.02)))


def remdm_rescale(view: View) -> Move:
    """The same with the largest share that keeps the process, times `remask_share`."""
    alpha_t, alpha_s = _alphas(view)
    return _exchange(view, alpha_t, alpha_s, _most_remasked(alpha_t, alpha_s) * _remask_share(view, 0.1))


def remdm_loop(view: View) -> Move:
    """The same with a long middle in which as much is masked again as is written."""
    alpha_t, alpha_s = map(_looped, _alphas(view))
    is_loop = (alpha_t == LOOP_ALPHA) & (alpha_s == LOOP_ALPHA)
    share = _most_remasked(alpha_t, alpha_s).clamp(max=_remask_share(view, 0.02)) * is_loop
    return _exchange(view, alpha_t, alpha_s, share)


def _alphas(view: View) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The open share before and after the step."""
    grid = view.draw.config.grid
    moments = [[min(1.0, (view.taken + ahead) / max(1, steps)) for steps in view.steps] for ahead in (0, 1)]
    before, after = ([1 - masked_share(grid, moment) for moment in row] for row in moments)
    return view.tensor(before), view.tensor(after)


def _looped(alpha: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The open share at time 1 - alpha of ReMDM's loop."""
    t = 1 - alpha
    rising, ending = LOOP_ALPHA * (1 - t) / (1 - LOOP_ON), 1 - (1 - LOOP_ALPHA) * t / LOOP_OFF
    return torch.where(t > LOOP_ON, rising, torch.where(t < LOOP_OFF, ending, LOOP_ALPHA))


def _most_remasked(alpha_t: Float[Tensor, " b"], alpha_s: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    return ((1 - alpha_s) / alpha_t).clamp(max=1)


def _remask_share(view: View, default: float) -> float:
    share = view.draw.config.remask_share
    return default if share is None else share


def _exchange(
    view: View, alpha_t: Float[Tensor, " b"], alpha_s: Float[Tensor, " b"], share: Float[Tensor, " b"]
) -> Move:
    """Open and mask again with the probabilities under which a share alpha_s is open afterwards."""
    to_open = ((alpha_s - (1 - share) * alpha_t) / (1 - alpha_t)).nan_to_num(nan=1.0)
    opened = view.is_masked & (view.order < to_open[:, None])
    return Move(opened, remasked=view.is_free & ~view.is_masked & (view.chance < share[:, None]))


def revise(view: View) -> Move:
    """Draw every position anew, also written ones, and keep the likeliest draws, as many as the grid says.

    Source: seed project S0, after Chang et al., MaskGIT, 2022; it takes likelihoods after temperature and filters.
    """
    sight = view.sight
    likelihood = view.table(sight, tokens.probability(sight.logits, view.tokens_at(sight)))
    keep = view.is_free.sum(1) - view.tensor(view.left) + view.tensor(view.count)
    kept = choose(likelihood, view.is_free, keep)
    return Move(kept, remasked=view.is_free & ~kept)


POLICIES: dict[str, Policy] = {
    "random": random,
    "first_hitting": first_hitting,
    "left_to_right": left_to_right,
    "confidence": confidence,
    "margin": margin,
    "entropy": entropy,
    "threshold": threshold,
    "entropy_bound": entropy_bound,
    "remdm_cap": remdm_cap,
    "remdm_rescale": remdm_rescale,
    "remdm_loop": remdm_loop,
    "revise": revise,
}

REWRITING = {"remdm_cap", "remdm_rescale", "remdm_loop", "revise"}
"""Policies that may mask again what is written: they take all their steps."""
