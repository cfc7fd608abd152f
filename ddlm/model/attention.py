"""Multi-head self-attention with rotary positions and normalised queries and keys; and what a position may see."""

from dataclasses import dataclass
from functools import cache
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from ddlm.model import ModelConfig

LONGEST_EXPLICIT = 512
"""Tokens up to which softmax(q kᵀ) v, written out, beats the fused kernel in bfloat16 on a CPU; see `attend`."""

Mask = Tensor | BlockMask | None
"""What positions may see: everything (None), a table of bools that broadcasts to [b, h, l, l], or its blocks."""


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


def segments_of(ids: Int[Tensor, "b l"], end_id: int) -> Int[Tensor, "b l"]:
    """The number, in its row, of the story that each token belongs to, and its end token with it."""
    is_end = (ids == end_id).long()
    return is_end.cumsum(1) - is_end


def starts_of(segments: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
    """The first position of every segment."""
    return F.pad(segments.diff(dim=1) != 0, (1, 0), value=True)


@no_type_check  # at run time: torch traces this function, and can't trace such checks
def visible(block: int, q_position: Tensor, kv_position: Tensor, q_segment: Tensor, kv_segment: Tensor) -> Tensor:
    """The one rule: a query sees its own block of positions and those before it, within its segment.

    Blocks of 1 make causal attention, a block as long as the row bidirectional attention.
    """
    return (q_position // block >= kv_position // block) & (q_segment == kv_segment)


def dense_mask(block: int, segments: Int[Tensor, "b l"]) -> Bool[Tensor, "b 1 l l"]:
    position = torch.arange(segments.shape[1], device=segments.device)
    return visible(block, position[:, None], position, segments[:, None, :, None], segments[:, None, None])  # type: ignore[no-any-return]


def block_mask(block: int, segments: Int[Tensor, "b l"]) -> BlockMask:
    rows, length = segments.shape
    return create_block_mask(
        lambda row, _, query, key: visible(block, query, key, segments[row, query], segments[row, key]),
        rows, None, length, length, device=segments.device,
    )  # fmt: skip


def make_mask(block: int | None, ids: Int[Tensor, "b l"], segments: Int[Tensor, "b l"] | None) -> Mask:
    """Of `ModelConfig.visible_block`. Blocks on CUDA, where FlexAttention skips what nobody sees; elsewhere a table."""
    if block is None and segments is None:
        return None
    make = block_mask if ids.is_cuda else dense_mask
    return make(block or ids.shape[1], torch.zeros_like(ids) if segments is None else segments)


def attend(
    queries: Float[Tensor, "b h l d"], keys: Float[Tensor, "b h k d"], values: Float[Tensor, "b h k d"], mask: Mask
) -> Float[Tensor, "b h l d"]:
    """Softmax attention by the kernel that is fastest for the place.

    Written out, it takes 0.55 of the fused kernel's time at 256 tokens in bfloat16 on a CPU, forward and backward, and
    0.7 at 512; in float32 it is slower. It rounds scores to bfloat16, which the fused kernel does not. Normalised
    queries and keys bound them, so the result is off by 0.4 % and not 0.2 %, by 1 % once norm weights have grown to 2:
    far below a batch's noise in a gradient, but not for likelihoods. So it trains and never judges.
    """
    if isinstance(mask, BlockMask):
        return _flex()(queries, keys, values, block_mask=mask)  # type: ignore[no-any-return]
    trains = torch.is_grad_enabled() and queries.device.type == "cpu" and queries.dtype == torch.bfloat16
    if trains and queries.shape[-2] <= LONGEST_EXPLICIT:
        return explicit_attention(queries, keys, values, mask)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def explicit_attention(
    queries: Float[Tensor, "b h l d"],
    keys: Float[Tensor, "b h k d"],
    values: Float[Tensor, "b h k d"],
    mask: Tensor | None,
) -> Float[Tensor, "b h l d"]:
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT
    if mask is not None:
        scores += torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ values  # type: ignore[no-any-return]


def _flex() -> Any:
    """FlexAttention is fast only when compiled, alone or as a part of a compiled block."""
    return flex_attention if torch.compiler.is_compiling() else _compiled_flex()


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention)


@dataclass(frozen=True, eq=False)
class Past:
    """A layer's keys and values of a whole canvas, of which one call computes a part.

    span: where that part lies; its keys and values replace those that were kept. end: how far it sees.
    """

    kept: Float[Tensor, "2 b h l d"]
    span: slice
    end: int

    def joined(self, keys: Float[Tensor, "b h n d"], values: Float[Tensor, "b h n d"]) -> Float[Tensor, "2 b h k d"]:
        """All keys and values that the part sees."""
        self.kept[0, :, :, self.span] = keys
        self.kept[1, :, :, self.span] = values
        return self.kept[:, :, :, : self.end]


class Attention(nn.Module):
    """Normalised queries and keys keep the scores bounded. Source: Henry et al., 2020."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query = nn.Linear(config.d_model, config.d_model, bias=False)
        self.key = nn.Linear(config.d_model, config.d_model, bias=False)
        self.value = nn.Linear(config.d_model, config.d_model, bias=False)
        self.output = nn.Linear(config.d_model, config.d_model, bias=False)
        self.query_norm = RMSNorm(config.head_dim)
        self.key_norm = RMSNorm(config.head_dim)

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        table: Float[Tensor, "2 l half"],
        mask: Mask = None,
        past: Past | None = None,
    ) -> Float[Tensor, "b l d"]:
        queries = rotate(self.query_norm(self._split(self.query(x))), table)
        keys = rotate(self.key_norm(self._split(self.key(x))), table)
        values = self._split(self.value(x))
        if past is not None:
            keys, values = past.joined(keys, values)
        mixed = attend(queries, keys, values, mask)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b h l head_dim"]:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
