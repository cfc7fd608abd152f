"""The training objective: weighted cross-entropy at the masked positions, without ever holding all logits.

A weighting is a density q over the masked share m = k / seq_len of a row; the schedule is the density p that shares are
drawn from. A row with k masks weighs q(k) / p(k), so the schedule drops out of what is minimised:

    loss = mean over rows of q(k) / (p(k) · k) · Σ over masked positions of -log p(x_0 | x_t)

in nats a position. Only the uniform q(k) = 1 / seq_len makes that the negative ELBO.
Source: Ou et al., RADD, 2024 (the any-order form); Sahoo et al., MDLM, 2024 and Shi et al., MD4, 2024 (the same bound
in continuous time, and that it does not depend on the schedule).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from ddlm.diffusion import ObjectiveConfig
from ddlm.diffusion.noise import count_probability

CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 128 << 20}
"""float32 logits that exist at a time, by device: on a CPU 256 tokens at a vocabulary of 8192. On one core (AMD EPYC,
2 MiB of L2, 2048 tokens, width 384, bfloat16) half of it takes 7 % longer, since products get small and the weight's
gradient is added to more often, and four times as much 20 % longer, since chunks leave the cache. On a GPU each chunk
costs a dozen launches."""

Emphasis = Callable[[ObjectiveConfig, int], Float[Tensor, " seq_len"]]
"""q(k) for k = 1 … seq_len, float64."""


@dataclass(frozen=True)
class Weighting:
    """How rows are weighed by their masked share.

    emphasis: q; None for no correction at all: every masked token of the global batch weighs the same, whatever the
        schedule, so crowded rows count for more.
    is_bound: whether the loss is an unbiased estimate of the negative ELBO. Anything else is for training only.
    """

    name: str
    emphasis: Emphasis | None
    is_bound: bool = False

    @property
    def metric(self) -> str:
        """What the loss is called in reports: only a bound is called one."""
        return "nelbo_nats" if self.is_bound else f"{self.name}_nats"


def uniform(_: ObjectiveConfig, seq_len: int) -> Float[Tensor, " seq_len"]:
    return torch.full((seq_len,), 1 / seq_len, dtype=torch.float64)


def clipped(config: ObjectiveConfig, seq_len: int) -> Float[Tensor, " seq_len"]:
    """The bound's weight 1 / m of a token, capped: rows with few masks, whose weight varies most, count for less."""
    share = torch.arange(1, seq_len + 1, dtype=torch.float64) / seq_len
    return (share * (config.weight_clip or 10.0)).clamp(max=1) / seq_len


def bell(config: ObjectiveConfig, seq_len: int) -> Float[Tensor, " seq_len"]:
    """The probability of the share's interval ((k - 1) / seq_len, k / seq_len] under the logit-normal(0, 1), which
    falls to 0 at both ends, and under the uniform density as far as `bell_floor` asks for it.

    Source: "Understanding and accelerating the training of masked diffusion language models" (arXiv 2605.13026) draws
    bell-shaped times; its density was not at hand, so the logit-normal is our choice.
    """
    share = torch.arange(seq_len + 1, dtype=torch.float64) / seq_len
    below: Tensor = torch.special.ndtr(torch.logit(share))
    floor = config.bell_floor or 0.0
    return (1 - floor) * below.diff() + floor * uniform(config, seq_len)


WEIGHTINGS: dict[str, Weighting] = {
    "bound": Weighting("bound", uniform, is_bound=True),
    "plain": Weighting("plain", None),
    "clipped": Weighting("clipped", clipped),
    "bell": Weighting("bell", bell),
}


AUTOREGRESSIVE = Weighting("autoregressive", None)
"""Of the twin, whose rows all predict all their positions; each position weighs the same."""


def weighting_of(config: ObjectiveConfig) -> Weighting:
    return AUTOREGRESSIVE if config.is_autoregressive else WEIGHTINGS[config.weighting]


def token_weights(config: ObjectiveConfig, count: Int[Tensor, " rows"], seq_len: int) -> Float[Tensor, " rows"]:
    """The weight of each masked token of each row of the global batch; the loss is their weighted sum of nats."""
    emphasis = weighting_of(config).emphasis
    if emphasis is None:
        return torch.full(count.shape, 1 / int(count.sum()))
    weight = emphasis(config, seq_len) / count_probability(config, seq_len)
    return (weight[count - 1] / (count * len(count))).float()


def bound_weights(config: ObjectiveConfig, count: Int[Tensor, " rows"], seq_len: int) -> Float[Tensor, " rows"]:
    """A row's nats over its masked positions, times this: an unbiased estimate of its negative ELBO in nats.

    1 / (p(k) · k), which is seq_len / k under the linear schedule; so it is 1 of the twin, whose sum is the negative
    log-likelihood itself. With complementary masks and another schedule it is the mean over a pair that is unbiased,
    not each of its rows.
    """
    return (1 / (count_probability(config, seq_len)[count - 1] * count)).float()


def linear_cross_entropy(
    hidden: Float[Tensor, "n d"],
    weight: Float[Tensor, "v d"],
    targets: Int[Tensor, " n"],
    token_weight: Float[Tensor, " n"],
    soft_cap: float | None = None,
    *,
    chunk_tokens: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Σ token_weight · -log softmax(hidden weightᵀ)[target], with its gradient, a few tokens at a time.

    Gradients are taken in the forward pass, where the weights of the tokens are known already: no n × v tensor ever
    exists and nothing is computed twice. The products run in autocast's type, all between them in float32.
    soft_cap: logits x become cap · tanh(x / cap).

    Returns the loss; and, without gradient, each token's nats and whether the most likely token is the target.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    tokens = chunk_tokens or max(1, CHUNK_BYTES.get(kind, CHUNK_BYTES["cpu"]) // (4 * len(weight)))
    sweep = Sweep(dtype, tokens, soft_cap, torch.is_grad_enabled())
    loss, nats, is_hit = _LinearCrossEntropy.apply(hidden, weight, targets, token_weight, sweep)  # type: ignore[no-untyped-call]
    return loss, nats, is_hit


@dataclass(frozen=True)
class Sweep:
    """How the tokens are gone through: `tokens` at a time, with products in `dtype`."""

    dtype: torch.dtype
    tokens: int
    soft_cap: float | None
    with_gradient: bool


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, token_weight: Tensor, sweep: Sweep
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = torch.promote_types(sweep.dtype, torch.float32)
        nats, is_hit = torch.empty_like(targets, dtype=exact), torch.empty_like(targets, dtype=torch.bool)
        by_hidden, by_weight = torch.zeros_like(hidden), torch.zeros_like(weight, dtype=exact)
        with torch.autocast(hidden.device.type, enabled=False):
            product_weight = weight.to(sweep.dtype)
            for start in range(0, len(hidden), sweep.tokens):
                part = slice(start, start + sweep.tokens)
                states = hidden[part].to(sweep.dtype)
                nats[part], is_hit[part], error = _score(
                    states, product_weight, targets[part], token_weight[part], sweep
                )
                if sweep.with_gradient:
                    by_hidden[part] = error @ product_weight
                    by_weight += error.T @ states
                del error  # before the next chunk is allocated
        ctx.save_for_backward(by_hidden, by_weight)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(nats, is_hit)
        return (nats * token_weight).sum(), nats, is_hit

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, by_weight = ctx.saved_tensors
        return by_hidden * scale.to(by_hidden.dtype), (by_weight * scale).to(ctx.weight_dtype), None, None, None


def _score(
    states: Tensor, weight: Tensor, targets: Tensor, token_weight: Tensor, sweep: Sweep
) -> tuple[Tensor, Tensor, Tensor]:
    """One chunk: nats, hits, and the gradient of the weighted nats by the logits before the cap, in sweep.dtype.

    The maximum serves both the hits and the log-sum-exp: log Σ exp x = max x - log max softmax(x).
    """
    logits, target = states @ weight.T, targets[:, None]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if sweep.soft_cap is not None:
        logits.div_(sweep.soft_cap).tanh_().mul_(sweep.soft_cap)
    best, guess = logits.max(dim=1, keepdim=True)
    chance = torch.softmax(logits, dim=1)
    nats = best - chance.gather(1, guess).log() - logits.gather(1, target)
    error = chance.scatter_add_(1, target, torch.full_like(best, -1)).mul_(token_weight[:, None])
    if sweep.soft_cap is not None:
        error.mul_(logits.div_(sweep.soft_cap).square_().neg_().add_(1))
    return nats[:, 0], (guess == target)[:, 0], error.to(sweep.dtype)
