"""Masked (absorbing-state) discrete diffusion.

Notation, the same everywhere in ddlm:

    t                       diffusion time in [0, 1]; 0 is clean, 1 is all mask
    x_0, x_t, x_s           clean, noised, less noised (s < t)
    alpha(t), dalpha(t)     survival probability and its derivative; alpha(0) = 1, alpha(1) = 0
    is_masked               bool, which positions are masked
    mask_id = vocab_size    the last embedding row, input only; the head writes the ids 0 … vocab_size - 1
    batch_size, seq_len, vocab_size, d_model, num_layers, num_heads, head_dim
    b, l, v, h, d           axes in shape annotations: batch, position, vocabulary, head, width
    num_sampling_steps      sampler steps; `step` is an optimizer step
    nll_nats                per token; bits_per_byte
"""

from typing import Literal

from pydantic import Field

from ddlm.config import Section


class ObjectiveConfig(Section):
    """`[objective]`: what training minimises."""

    schedule: Literal["linear"] = "linear"
    weighting: Literal["bound", "plain"] = "bound"
    """`bound`: the negative ELBO. `plain`: unweighted cross-entropy of the masked tokens (no bound)."""


class SamplingConfig(Section):
    """`[sampling]`: how text is drawn."""

    unmasking: Literal["confidence", "random"] = "confidence"
    num_sampling_steps: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.8, ge=0)
    """0 takes the most likely token."""
    top_k: int | None = Field(default=None, ge=1)
    top_p: float = Field(default=0.95, gt=0, le=1)
