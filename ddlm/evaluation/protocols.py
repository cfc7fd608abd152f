"""Cross-entropy over the mask rate, and the validation figures of earlier projects, each under its own name.

None of these is a likelihood bound but S1's, which is per position of the row, tail included.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from ddlm.data.packing import Rows
from ddlm.diffusion.bound import guess_masked
from ddlm.diffusion.view import Denoiser
from ddlm.evaluation.likelihood import is_text_position
from ddlm.evaluation.sweep import Sweep

RATES = 16
"""Points of the curve, the middles of equal parts of (0, 1)."""
MIN_S3_MASKS = 64
"""S3's protocol passes over a small set several times, so that its mean never rests on a handful of masks."""
_CURVE_DRAWS, _S3_DRAWS = 3, 2


@dataclass(frozen=True)
class ProtocolScore:
    """A seed's own validation figures: mean cross-entropy in nats, and accuracy where it has one."""

    loss: float
    accuracy: float | None = None


@dataclass(frozen=True)
class Point:
    """One mask rate. nll_nats: per masked position of the row. text_nats, accuracy: of masked tokens of stories, end
    tokens left out. text_tokens: how many those were."""

    mask_rate: float
    nll_nats: float
    text_nats: float
    accuracy: float
    text_tokens: int


def curve(
    denoiser: Denoiser, rows: Rows, *, mask_id: int, end_id: int, seed: int, sweep: Sweep = Sweep()
) -> list[Point]:
    """l(r): what a masked token costs at each mask rate, one mask of exactly that share for each row and rate."""
    rates = (np.arange(RATES) + 0.5) / RATES
    seq_len = rows.tokens.shape[1]
    count = np.ceil(rates * seq_len).astype(int)

    def score(numbers: np.ndarray) -> np.ndarray:
        x_0 = sweep.tensor(rows.tokens[numbers])
        is_text = torch.from_numpy(is_text_position(rows)[numbers]) & (x_0.cpu() != end_id)
        masks = torch.from_numpy(np.stack([_masks(seed, row, count, seq_len) for row in numbers]))
        found = []
        for is_masked in masks.unbind(1):
            made = guess_masked(denoiser, x_0, is_masked.to(x_0.device), mask_id)
            asked = is_masked & is_text
            parts = (made.nats.sum(1), (made.nats * is_text).sum(1), (made.is_hit & is_text).sum(1), asked.sum(1))
            found.append(torch.stack(parts, dim=1))
        return torch.stack(found, dim=1).numpy()

    nats, text_nats, hits, asked = sweep.over(score, len(rows)).sum(0).T
    each = zip(rates, nats / (len(rows) * count), text_nats, hits, asked, strict=True)
    return [
        Point(float(rate), float(nll), float(text / max(n, 1)), float(hit / max(n, 1)), int(n))
        for rate, nll, text, hit, n in each
    ]


def s0_protocol(points: list[Point]) -> ProtocolScore:
    """S0's: mask rate uniform, end tokens never masked, unweighted mean over all masked tokens of the batch.

    Of the curve the mean over its tokens: crowded rows count for more, as there.
    """
    weights = np.array([point.text_tokens for point in points])
    loss, accuracy = (
        float(np.average([getattr(point, name) for point in points], weights=weights))
        for name in ("text_nats", "accuracy")
    )
    return ProtocolScore(loss, accuracy)


def s1_protocol(points: list[Point]) -> ProtocolScore:
    """S1's: mask rate uniform, every position may be masked, weight 1 / rate, divided by all positions of the row.

    The negative ELBO a position. Easy end tokens of the tail are among the positions, so it looks low.
    """
    return ProtocolScore(float(np.mean([point.nll_nats for point in points])))


def s3_protocol(denoiser: Denoiser, rows: Rows, *, mask_id: int, seed: int, sweep: Sweep = Sweep()) -> ProtocolScore:
    """Seed S3's validation loss and accuracy, for comparison with its published numbers.

    Each row: t uniform in (0, 1), every token of the story and its first end token masked with probability
    1 - cos(pi t / 2), unweighted mean cross-entropy over all masked tokens. This is no likelihood bound, and it is
    conditioned on the story's length: the tail stays visible and is never masked, as padding is in S3.
    """
    count, seq_len = rows.tokens.shape
    passes = -(-MIN_S3_MASKS // count)

    def score(numbers: np.ndarray) -> np.ndarray:
        x_0, is_text = sweep.tensor(rows.tokens[numbers]), is_text_position(rows)[numbers]
        total = torch.zeros(len(numbers), 3, dtype=torch.float64)
        for number in range(passes):
            masks = np.stack([_s3_mask(seed, number, row, seq_len) for row in numbers]) & is_text
            is_masked = torch.from_numpy(masks)
            made = guess_masked(denoiser, x_0, is_masked.to(x_0.device), mask_id)
            total += torch.stack([made.nats.sum(1), made.is_hit.sum(1), is_masked.sum(1)], dim=1)
        return total.numpy()

    nats, hits, masked = sweep.over(score, count).sum(0)
    return ProtocolScore(loss=float(nats / masked), accuracy=float(hits / masked))


def _masks(seed: int, row: int, count: np.ndarray, seq_len: int) -> np.ndarray:
    """bool[rates, seq_len]: so many masked positions at each rate, every such set equally likely."""
    rng = np.random.default_rng((seed, _CURVE_DRAWS, row))
    rank = rng.random((len(count), seq_len)).argsort(axis=1).argsort(axis=1)
    return np.asarray(rank < count[:, None])


def _s3_mask(seed: int, replicate: int, row: int, seq_len: int) -> np.ndarray:
    rng = np.random.default_rng((seed, _S3_DRAWS, replicate, row))
    mask_rate = 1 - math.cos(math.pi * rng.random() / 2)
    return rng.random(seq_len) < mask_rate
