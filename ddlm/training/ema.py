"""An exponential moving average of the weights, in float32: a bfloat16 shadow silently stops moving."""

import torch
from torch import nn


class MovingAverage:
    """`shadow = decay · shadow + (1 - decay) · weights` after each step; early on the decay grows from 0.

    A shadow is placed as its weights are: on their device and, sharded, in their parts.
    Source for the growing decay: the usual (1 + n) / (10 + n) cap, which forgets the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: value.detach().float().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """`step` counts finished steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        values = [value.float() for value in model.parameters()]  # of float32 no copy
        torch._foreach_lerp_(list(self.shadow.values()), values, 1 - decay)
