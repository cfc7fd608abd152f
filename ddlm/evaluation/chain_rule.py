"""Exact likelihoods of a masked model, for writing in a fixed order.

A policy that chooses by what the model says, and draws nothing by chance, opens a text's positions in an order that the
text itself decides; the product of what it says along that order is a probability, and over all texts it sums to 1. It
is the likelihood of writing with that policy, at temperature 1 and unfiltered. It stands in no fixed relation to the
bound, which averages over all orders.

Source: left to right as in any chain rule; deterministic orders: "DUEL: exact likelihood for masked diffusion via
deterministic unmasking", 2026.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddlm.data.packing import Rows
from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.sampler import denoise
from ddlm.diffusion.tokens import Draw
from ddlm.diffusion.view import Denoiser, Sight, View
from ddlm.evaluation.likelihood import per_byte
from ddlm.evaluation.sweep import Sweep

DETERMINISTIC = ("left_to_right", "confidence", "margin", "entropy", "threshold", "entropy_bound")
"""Policies whose order has no chance in it."""
NO_END = -1
"""No token ends a text here: every position is asked for."""


@dataclass(frozen=True)
class ChainRule:
    """Exact, for this policy on these rows, unless `bound` says otherwise: then bits_per_byte_stderr is its masks'.

    Units and denominators as in `likelihood.Likelihood`.
    """

    nll_nats: float
    bits_per_byte: float
    bits_per_byte_interval: tuple[float, float] | None
    stories: int
    bound: str = "exact"
    bits_per_byte_stderr: float = 0.0


def one_by_one(unmasking: str, seq_len: int) -> SamplingConfig:
    """Writing with this policy, a position a step. Raises: UserError for an unknown policy."""
    return SamplingConfig(unmasking=unmasking, num_sampling_steps=seq_len, ends="free")  # type: ignore[arg-type]


def score_rows(
    denoiser: Denoiser,
    rows: Rows,
    *,
    mask_id: int,
    sampling: SamplingConfig,
    seed: int,
    story: np.ndarray,
    sweep: Sweep = Sweep(),
) -> ChainRule:
    """seed: of the bootstrap alone. story: the story number of each row."""

    def score(numbers: np.ndarray) -> np.ndarray:
        x_0 = sweep.tensor(rows.tokens[numbers])
        every = torch.ones_like(x_0, dtype=torch.bool)
        return chain_rule(denoiser, x_0, every, mask_id=mask_id, sampling=sampling).sum(1).numpy()

    row_nats = sweep.over(score, len(rows))
    bits_per_byte, interval = per_byte(row_nats, rows, story, seed)
    nll_nats = float(row_nats.sum() / np.sum(rows.text_tokens))
    return ChainRule(nll_nats, bits_per_byte, interval, len(np.unique(story)))


def chain_rule(
    denoiser: Denoiser,
    x_0: Int[Tensor, "b l"],
    is_scored: Bool[Tensor, "b l"],
    *,
    mask_id: int,
    sampling: SamplingConfig,
    is_hidden: Bool[Tensor, "b l"] | None = None,
) -> Float[Tensor, "b l"]:
    """-log p, float64 on the CPU, of each scored position when the sampler finds the row's own tokens; 0 elsewhere.

    What is not scored is visible from the start, but for what is hidden: that stays masked and is never asked for, as
    a tail that nobody looks at any more. Positions that a step opens together are independent. It is the
    sampler itself that runs, told what to write. Raises: ValueError for a policy that draws by chance or rewrites.
    """
    if sampling.unmasking not in DETERMINISTIC or sampling.ends != "free":
        raise ValueError(
            f"chain rule: got unmasking {sampling.unmasking} with ends {sampling.ends}; wanted one of "
            f"{', '.join(DETERMINISTIC)} with ends free: other orders are drawn by chance and have no such likelihood"
        )
    length, truth = x_0.shape[1], x_0.flatten()
    nats = torch.zeros(x_0.numel(), dtype=torch.float64)

    def tell(view: View, sight: Sight) -> Tensor:
        place = view.draw.sample[sight.place // length] * length + sight.place % length
        nats[place.cpu()] = F.cross_entropy(sight.logits, truth[place], reduction="none").cpu().double()
        return truth[place]

    draw = Draw(sampling, 0, torch.arange(len(x_0), device=x_0.device), NO_END)
    is_masked = is_scored if is_hidden is None else is_scored | is_hidden
    for _ in denoise(denoiser, x_0.masked_fill(is_masked, mask_id), mask_id, draw, is_free=is_scored, tokens_of=tell):
        pass
    return nats.view(x_0.shape)
