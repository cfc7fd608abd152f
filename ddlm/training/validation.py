"""Validation while training: always the same rows under the same masks, with the weights that would be shipped."""

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ddlm.data.shards import read_rows
from ddlm.evaluation.likelihood import likelihood_of
from ddlm.model.transformer import Denoiser
from ddlm.training.distributed import Ranks
from ddlm.training.meter import Metrics
from ddlm.training.state import TrainState

ROWS, MASKS_PER_ROW = 64, 4
"""Enough to see the curve; the evaluate stage measures properly."""


class Validator:
    """A network of its own takes the weights, so that training's stays as it is, sharded and compiled or not."""

    def __init__(self, shards: Path, trained: Denoiser, seed: int, ranks: Ranks, device: torch.device) -> None:
        self._rows = read_rows(shards, "validation", limit=ROWS)
        self._seed, self._ranks = seed, ranks
        self._model = trained.fresh().to(device).eval()
        self._rms = [math.nan] * len(self._model.blocks)
        for number, block in enumerate(self._model.blocks):
            block.register_forward_hook(partial(self._note, number))

    def __call__(self, state: TrainState) -> Metrics:
        """The first rank measures, all of them get its numbers."""
        weights = state.weights()
        names = ["val/nll_nats", "val/bits_per_byte", "val/accuracy"]
        names += [f"val/activation_rms/block{number}" for number in range(len(self._rms))]
        measured = [-math.inf] * len(names)
        if self._ranks.is_first:
            self._model.load_state_dict(weights)
            value = likelihood_of(self._model, self._rows, masks_per_row=MASKS_PER_ROW, seed=self._seed)
            measured = [value.nll_nats, value.bits_per_byte, value.accuracy, *self._rms]
        return dict(zip(names, self._ranks.highest(*measured), strict=True))

    def _note(self, number: int, block: nn.Module, inputs: object, output: Tensor) -> None:
        """The root mean square of the stream behind a block, in the last batch."""
        del block, inputs
        self._rms[number] = float(output.float().square().mean().sqrt())
