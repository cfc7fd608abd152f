"""The forward process: how many tokens are masked at time t, and which."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor


@dataclass(frozen=True)
class Linear:
    """alpha(t) = 1 - t: the masked share is the time."""

    def alpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return 1 - t

    def dalpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return -torch.ones_like(t)

    def inverse(self, alpha: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The time at which so much has survived."""
        return 1 - alpha


SCHEDULES = {"linear": Linear()}


def stratified_times(count: int, generator: Generator) -> Float[Tensor, " count"]:
    """One time in (0, 1] in each of `count` equal intervals, in random order.

    Source: Kingma et al., Variational diffusion models, 2021, section 4 (low-discrepancy sampler), with a shift of its
    own for each interval.
    """
    order = torch.randperm(count, generator=generator)
    return 1 - (order + torch.rand(count, generator=generator)) / count


def num_masked(alpha: Float[Tensor, " b"], seq_len: int) -> Int[Tensor, " b"]:
    """How many of `seq_len` positions are masked: ceil((1 - alpha) * seq_len), at least 1.

    With t uniform this count is uniform over 1 … seq_len: the any-order form of the bound needs nothing else.
    """
    return torch.ceil((1 - alpha) * seq_len).clamp(1, seq_len).long()


def mask_exactly(count: Int[Tensor, " b"], seq_len: int, generator: Generator) -> Bool[Tensor, "b l"]:
    """Mask exactly `count[i]` positions of row i, every set of that size equally likely.

    An exact count removes the noise of a binomial one from the loss.
    """
    noise = torch.rand(len(count), seq_len, generator=generator, dtype=torch.float64)
    return noise.argsort(dim=1).argsort(dim=1) < count[:, None]
