"""Small denoisers whose distributions are known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.tokens import Draw
from ddlm.diffusion.view import Denoiser, everywhere

DrawOf = Callable[..., Draw]


@pytest.fixture
def draw_of() -> DrawOf:
    """A draw for so many rows, unfiltered, at temperature 1, with ends like any other token."""

    def make(
        count: int, *, end_id: int = 0, forbidden: tuple[int, ...] = (), seed: int = 0, **settings: object
    ) -> Draw:
        plain = {"temperature": 1.0, "top_p": 1.0, "ends": "free"}
        config = SamplingConfig(**{**plain, **settings})  # type: ignore[arg-type]
        return Draw(config, seed, torch.arange(count), end_id, forbidden)

    return make


@pytest.fixture
def noise() -> Denoiser:
    """Nine tokens, mask id 9: what is likely depends on the token itself and on the one before it."""
    weights = torch.randn(10, 9, generator=torch.Generator().manual_seed(3))
    return everywhere(lambda ids: weights[ids] + weights[ids.roll(1, 1)])


@pytest.fixture
def pairs() -> tuple[Denoiser, Tensor]:
    """The exact denoiser of a distribution over pairs of three tokens, mask id 3, and the distribution."""
    joint = torch.tensor([[0.05, 0.30, 0.05], [0.20, 0.02, 0.08], [0.10, 0.15, 0.05]])

    def network(ids: Tensor) -> Tensor:
        first = torch.cat([joint.T, joint.sum(1, keepdim=True).T])
        second = torch.cat([joint, joint.sum(0, keepdim=True)])
        return torch.stack([first[ids[:, 1]], second[ids[:, 0]]], dim=1).log()

    return everywhere(network), joint
