"""Networks that have learned something."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ddlm.model import ModelConfig
from ddlm.model.transformer import Denoiser


@pytest.fixture
def build() -> Callable[..., Denoiser]:
    """A network for 50 tokens and 16 positions with the given options, in evaluation mode; no weight is zero."""

    def learned(**given: Any) -> Denoiser:
        model = Denoiser(
            ModelConfig(**{"d_model": 32, "num_layers": 2, "num_heads": 2, **given}),
            vocab_size=50,
            seq_len=16,
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        return model.eval()

    return learned
