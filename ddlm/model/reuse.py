"""Keys and values that are reused while a canvas is written in blocks, from left to right."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddlm.model import ModelConfig
from ddlm.model.attention import Past, dense_mask
from ddlm.model.transformer import Denoiser


def reuse_of(config: ModelConfig, block_size: int) -> Literal["exact", "approximate"] | None:
    """What `BlockReuse` is for this network and blocks of this size, which start at position 0; None: it can't be.

    Segments and time depend on the whole row, so that every token written would change every key. Where blocks end
    inside the network's own, keys would be kept that have not seen all they may.
    """
    if config.segment_mask or config.time_conditioning:
        return None
    if config.visible_block is None:
        return "approximate"
    return "exact" if block_size % config.visible_block == 0 else None


class BlockReuse:
    """Denoisers of the blocks of one canvas, which compute the block's positions and keep keys and values of others.

    Exact in causal and block-causal networks: what lies before a block is finished, and its keys are kept; what lies
    after it is not seen. The first call in a block also computes the block that was finished last, from its tokens.

    An approximation in bidirectional networks: the first call in a block computes the whole canvas; the others take
    all keys outside the block from there, though with every token written in it they would change.
    Source: Wu et al., Fast-dLLM, 2025 (dual cache).
    """

    def __init__(self, network: Denoiser) -> None:
        self.network, self.size = network, network.config.visible_block
        assert reuse_of(network.config, self.size or 1), "see reuse_of"
        self.block = self.span = slice(0, 0)
        """The block that is being written, and the positions that the next call computes."""
        self.kept: Float[Tensor, "layers 2 b h l d"] | None = None

    def __call__(
        self, ids: Int[Tensor, "b l"], block: slice
    ) -> Callable[[Int[Tensor, "b l"], Bool[Tensor, "b l"]], Float[Tensor, "n v"]]:
        """The denoiser of the next block, to be used before this is called again. All it is asked for lies inside."""
        length = ids.shape[1]
        assert block.start >= self.block.stop, "blocks of one canvas, from left to right"
        assert self.size is None or block.start % self.size == 0, "see reuse_of"
        assert self.size is None or block.stop % self.size == 0 or block.stop == length, "see reuse_of"
        if self.kept is None:
            self.kept = self._room(*ids.shape)
        self.block = block
        self.span = slice(0, length) if self.size is None else slice(self.span.start, block.stop)
        return self._logits

    def _room(self, rows: int, length: int) -> Float[Tensor, "layers 2 b h l d"]:
        config = self.network.config
        shape = (config.num_layers, 2, rows, config.num_heads, length, config.head_dim)
        return self.network.embedding.weight.new_empty(shape)

    @torch.no_grad()
    def _logits(self, ids: Int[Tensor, "b l"], wanted: Bool[Tensor, "b l"]) -> Float[Tensor, "n v"]:
        span = self.span
        inputs, end = self.network.inputs(ids)[:, span], ids.shape[1] if self.size is None else self.block.stop
        hidden = self._hidden(inputs, span, end)
        self.span = self.block
        return self.network.logits(hidden[wanted[:, span]])

    def _hidden(self, ids: Int[Tensor, "b n"], span: slice, end: int) -> Float[Tensor, "b n d"]:
        """The stream before the head at the span, whose positions see nothing from `end` on."""
        assert self.kept is not None
        is_start = torch.arange(span.start, span.stop, device=ids.device) == 0
        x, mask = self.network.embed(ids, is_start[None]), self._mask(ids, span, end)
        for block, kept in zip(self.network.blocks, self.kept, strict=True):
            x = block(x, self.network.rotary[:, span], mask, past=Past(kept, span, end))
        return self.network.norm(x)  # type: ignore[no-any-return]

    def _mask(self, ids: Int[Tensor, "b n"], span: slice, end: int) -> Bool[Tensor, "1 1 n k"] | None:
        """A table also on CUDA, where attention compiled for this shape would have to be compiled for the next one."""
        if self.size is None or span.start // self.size == (end - 1) // self.size:
            return None
        return dense_mask(self.size, ids.new_zeros(1, end))[:, :, span]
