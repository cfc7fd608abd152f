"""Whether a model is right as often as it says: the probability of its likeliest token, beside how often that is it.

Asked of masked tokens of the stories, with as many masks as the bound has: uniformly from one to all positions.
Source of the error: Guo et al., "On Calibration of Modern Neural Networks", 2017.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddlm.data.packing import Rows
from ddlm.diffusion.bound import exact_k_masks
from ddlm.diffusion.view import Denoiser
from ddlm.evaluation.likelihood import is_text_position
from ddlm.evaluation.sweep import Sweep

BINS = 10
MOST_ROWS, MASKS_PER_ROW = 128, 2
"""Some ten thousand tokens: a bin of a tenth of them is known to a percent or two."""
_DRAWS = 7
"""Keeps these masks apart from those of other measures."""


@dataclass(frozen=True)
class Bin:
    """Tokens whose likeliest guess had a probability in one tenth of [0, 1]: how many, its mean, and the share hit."""

    tokens: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """error: the mean distance of confidence and accuracy, weighted by tokens. bins: those that hold any."""

    tokens: int
    error: float
    bins: tuple[Bin, ...]


def calibrate(denoiser: Denoiser, rows: Rows, *, mask_id: int, seed: int, sweep: Sweep) -> Calibration:
    """Of the first rows. The masks depend on seed and row number alone."""
    few = rows[:MOST_ROWS]
    is_text = is_text_position(few)

    def score(numbers: np.ndarray) -> np.ndarray:
        x_0 = sweep.tensor(few.tokens[numbers])
        masks = np.stack([masks_of(seed, row, few.tokens.shape[1]) for row in numbers])
        each = [
            tally(denoiser, x_0, mask_id, sweep.tensor(is_masked & is_text[numbers]), sweep.tensor(is_masked))
            for is_masked in np.moveaxis(masks, 1, 0)
        ]
        return np.asarray(np.sum(each, axis=0))

    return summarise(sweep.over(score, len(few)).sum(0).reshape(BINS, 3))


def masks_of(seed: int, row: int, seq_len: int) -> np.ndarray:
    return exact_k_masks(np.random.default_rng((seed, _DRAWS, row)), MASKS_PER_ROW, seq_len)


def tally(denoiser: Denoiser, x_0: Tensor, mask_id: int, wanted: Tensor, is_masked: Tensor) -> np.ndarray:
    """float64[b, BINS * 3]: of each row and bin the tokens, the sum of their confidences, and the hits."""
    logits = denoiser(torch.where(is_masked, mask_id, x_0), wanted)
    best, guess = logits.max(-1)
    sure = (best - logits.logsumexp(-1)).exp().double().cpu()
    is_hit = (guess == x_0[wanted]).double().cpu()
    place = (sure * BINS).long().clamp(max=BINS - 1) + BINS * wanted.nonzero()[:, 0].cpu()
    sums = torch.zeros(len(x_0) * BINS, 3, dtype=torch.float64)
    sums.index_add_(0, place, torch.stack([torch.ones_like(sure), sure, is_hit], dim=1))
    return sums.view(len(x_0), -1).numpy()


def summarise(sums: np.ndarray) -> Calibration:
    bins = tuple(Bin(int(count), sure / count, hits / count) for count, sure, hits in sums.tolist() if count)
    tokens = sum(found.tokens for found in bins)
    error = sum(found.tokens * abs(found.confidence - found.accuracy) for found in bins) / max(1, tokens)
    return Calibration(tokens, error, bins)
