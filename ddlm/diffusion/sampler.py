"""The reverse process: one loop that opens masked positions, some at each step, until none is left.

Positions are chosen first and tokens are drawn only there, so the mask is never a competitor in a draw.
Source: Zheng et al., Masked diffusion models are secretly time-agnostic, 2024, on why that order matters in float32.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddlm import draws
from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.unmasking import POLICIES, View

DenoiserFn = Callable[[Int[Tensor, "b l"]], Float[Tensor, "b l v"]]
"""Token ids with masks to logits over the vocabulary without the mask."""


@dataclass(frozen=True)
class Step:
    """What an observer sees. step 0 is the start; `opened` are the positions that this step filled."""

    step: int
    num_sampling_steps: int
    ids: Int[Tensor, "b l"]
    opened: Bool[Tensor, "b l"]


Observer = Callable[[Step], None]


@dataclass(frozen=True)
class Draw:
    """How tokens are drawn, and whose draws they are.

    sample: each row's sample number: with the seed it fixes the text, whatever else is in the batch.
    forbidden: ids that can't come out.
    """

    config: SamplingConfig
    seed: int
    sample: Int[Tensor, " b"]
    end_id: int
    forbidden: tuple[int, ...] = ()


def masked_after(total: int, step: int, num_sampling_steps: int) -> int:
    """How many of `total` positions stay masked after a step, counted from 0: an even grid.

    It depends on the row alone: one with fewer masks than steps opens one a step and is done early.
    """
    steps = min(num_sampling_steps, total)
    return total * (steps - 1 - step) // steps if step < steps else 0


@torch.inference_mode()
def sample(
    denoiser: DenoiserFn, ids: Int[Tensor, "b l"], mask_id: int, draw: Draw, observer: Observer | None = None
) -> tuple[Int[Tensor, "b l"], int]:
    """Fill every mask in `ids`. Returns the ids and how often the network was called."""
    total = (ids == mask_id).sum(1)
    num_steps = min(draw.config.num_sampling_steps, int(total.max()))
    ids = ids.clone()
    watch = observer or (lambda _: None)
    watch(Step(0, num_steps, ids.clone(), torch.zeros_like(ids, dtype=torch.bool)))
    for step in range(num_steps):
        logits = forbid(denoiser(ids), draw.forbidden)
        is_masked = ids == mask_id
        left = [masked_after(int(count), step, draw.config.num_sampling_steps) for count in total]
        keep = torch.tensor(left, device=ids.device)
        score = POLICIES[draw.config.unmasking](View(logits, draw.sample, step, draw.seed, draw.end_id))
        opened = choose(score, is_masked, is_masked.sum(1) - keep)
        ids[opened] = draw_tokens(logits[opened], opened, step, draw)
        watch(Step(step + 1, num_steps, ids.clone(), opened))
    return ids, num_steps


def forbid(logits: Float[Tensor, "b l v"], ids: tuple[int, ...]) -> Float[Tensor, "b l v"]:
    if not ids:
        return logits
    return logits.index_fill(-1, torch.tensor(ids, device=logits.device), float("-inf"))


def choose(
    score: Float[Tensor, "b l"], is_masked: Bool[Tensor, "b l"], count: Int[Tensor, " b"]
) -> Bool[Tensor, "b l"]:
    """The `count` masked positions with the largest scores in each row; ties go to the lower position."""
    order = score.masked_fill(~is_masked, float("-inf")).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    return (rank < count[:, None]) & is_masked


def draw_tokens(logits: Float[Tensor, "n v"], opened: Bool[Tensor, "b l"], step: int, draw: Draw) -> Int[Tensor, " n"]:
    """One token for each opened position by the Gumbel-max trick in float64, over what the filters leave."""
    if draw.config.temperature == 0:
        return logits.argmax(-1)
    scaled = keep_likely(logits.double() / draw.config.temperature, draw.config)
    row, position = opened.nonzero(as_tuple=True)
    blocks = -(-scaled.shape[-1] // draws.LANES)
    block = torch.arange(blocks, device=scaled.device)[None]
    at_step = torch.full_like(block, step)
    words = draws.words(draw.seed, draw.sample[row][:, None], at_step, position[:, None], block)
    uniform = draws.to_unit(torch.stack(words, dim=-1).flatten(1)[:, : scaled.shape[-1]].double())
    return (scaled - torch.log(-torch.log(uniform))).argmax(-1)


def keep_likely(scaled: Float[Tensor, "n v"], config: SamplingConfig) -> Float[Tensor, "n v"]:
    """Top-k, then nucleus: the smallest set of most likely tokens that reaches `top_p`; the rest gets -inf.

    Source: Holtzman et al., 2020. Ties are kept by lower id.
    """
    if config.top_k is None and config.top_p == 1:
        return scaled
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    if config.top_k is not None:
        ordered[:, config.top_k :] = float("-inf")
    before = torch.softmax(ordered, dim=-1).cumsum(-1).roll(1, dims=-1)
    before[:, 0] = 0
    ordered[before >= config.top_p] = float("-inf")
    return torch.empty_like(scaled).scatter(-1, ids, ordered)
