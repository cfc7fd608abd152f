"""Multi-head self-attention with rotary positions and normalised queries and keys."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddlm.model import ModelConfig


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, in float32 whatever comes in.

    Source: Zhang and Sennrich, 2019. float16 overflows in the sum of squares, so the cast stays for export as well.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return (y * self.weight.float()).to(x.dtype)


def rotary_table(seq_len: int, head_dim: int, theta: float) -> Float[Tensor, "2 l half"]:
    """Cosines and sines of every position's rotation angles. Source: Su et al., RoFormer, 2021."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(seq_len, dtype=torch.float64), frequencies)
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(x: Float[Tensor, "b h l d"], table: Float[Tensor, "2 l half"]) -> Float[Tensor, "b h l d"]:
    """Turn each pair (i, i + d/2) by its position's angle."""
    cos, sin = table.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Attention(nn.Module):
    """Bidirectional: every position sees every other. Normalised queries and keys keep the scores bounded."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query = nn.Linear(config.d_model, config.d_model, bias=False)
        self.key = nn.Linear(config.d_model, config.d_model, bias=False)
        self.value = nn.Linear(config.d_model, config.d_model, bias=False)
        self.output = nn.Linear(config.d_model, config.d_model, bias=False)
        self.query_norm = RMSNorm(config.head_dim)
        self.key_norm = RMSNorm(config.head_dim)

    def forward(self, x: Float[Tensor, "b l d"], table: Float[Tensor, "2 l half"]) -> Float[Tensor, "b l d"]:
        queries = rotate(self.query_norm(self._split(self.query(x))), table)
        keys = rotate(self.key_norm(self._split(self.key(x))), table)
        mixed = F.scaled_dot_product_attention(queries, keys, self._split(self.value(x)))
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b h l head_dim"]:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
