"""How the network that writes is run: as it is, compiled, from CUDA graphs, or on an Apple GPU."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddlm.config import UserError
from ddlm.model.captured import Captured, is_capturable
from ddlm.model.device import COMPILE_FLOPS, lacks_compiler
from ddlm.model.transformer import Denoiser

Compile = Literal["auto", "on", "off"]


class Runner:
    """A denoiser.

    compile: whether the network's blocks are compiled: on, off, or auto, which is before the first job that is long
    enough to gain, and in bfloat16 alone: rounding changes with it, and with it a seed's text. Unless it is off, a GPU
    replays CUDA graphs, which changes no bit.
    """

    def __init__(self, network: Denoiser, compile: Compile = "auto") -> None:
        self.network, self.compile = network, compile
        self._is_compiled = False
        self._captured = self._captures()

    @property
    def on_mps(self) -> bool:
        return self.network.embedding.weight.device.type == "mps"

    @property
    def device(self) -> torch.device:
        """Where canvases are kept. An Apple GPU has no float64, which draws need: it runs the network alone."""
        return torch.device("cpu") if self.on_mps else self.network.embedding.weight.device

    @torch.no_grad()
    def at(self, ids: Int[Tensor, "b l"], wanted: Bool[Tensor, "b l"]) -> Float[Tensor, "n v"]:
        """The logits at the wanted positions. Without gradients whoever asks: with them attention rounds otherwise."""
        if self.on_mps:
            return self.network.at(ids.to("mps"), wanted.to("mps")).cpu()
        return (self._captured or self.network).at(ids, wanted)

    def prepare(self, positions: int) -> None:
        """Compile if that is wanted and pays for a job that runs the network at so many positions.

        Raises: UserError when it is asked for and can't be.
        """
        if self._is_compiled or self.compile == "off" or (self.compile == "auto" and not self._gains(positions)):
            return
        if missing := lacks_compiler():
            if self.compile == "on":
                raise UserError(f"compile on: {missing}, or leave it out")
            return
        self.network.compile_blocks()
        self._is_compiled = True
        self._captured = self._captures()

    def _captures(self) -> Captured | None:
        wanted = self.device.type == "cuda" and self.compile != "off" and is_capturable(self.network.config)
        return Captured(self.network) if wanted else None

    def _gains(self, positions: int) -> bool:
        """Whether compiling takes less than it spares. A forward pass is a third of a training step."""
        weight = self.network.embedding.weight
        flops = self.network.train_flops_per_token() / 3 * positions
        return weight.dtype == torch.bfloat16 and flops >= COMPILE_FLOPS.get(weight.device.type, math.inf)
