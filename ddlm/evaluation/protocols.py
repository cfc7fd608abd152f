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
FEWEST_PASSES, MOST_PASSES, MOST_MASKS = 8, 48, 2048
"""Of S3's protocol over the rows: as many passes as its errors want, within these; fewer where there are many rows."""
LOSS_ERROR, ACCURACY_ERROR = 0.01, 0.002
"""Standard errors at which S3's protocol stops: below the last digits that are shown."""
_CURVE_DRAWS, _S3_DRAWS = 3, 2


@dataclass(frozen=True)
class ProtocolScore:
    """A seed's own validation figures, each with its Monte-Carlo standard error.

    loss: mean cross-entropy in nats. accuracy: where the seed has one. masks: rows that were masked and scored.
    """

    loss: float
    loss_stderr: float
    accuracy: float | None = None
    accuracy_stderr: float | None = None
    masks: int = 0


@dataclass(frozen=True)
class Point:
    """One mask rate. nll_nats: per masked position of the row. text_nats, accuracy: of masked tokens of stories, end
    tokens left out. text_tokens: how many those were."""

    mask_rate: float
    nll_nats: float
    text_nats: float
    accuracy: float
    text_tokens: int


@dataclass(frozen=True, eq=False)
class Curve:
    """l(r): what a masked token costs at each mask rate.

    found: float64[rows, rates, 4], of each mask the nats of all masked positions, the nats and the hits of
    masked tokens of stories, and the number of those. masked: positions masked at each rate.
    """

    found: np.ndarray
    masked: np.ndarray

    def points(self) -> list[Point]:
        each = zip(_rates(), self.masked, *self.found.sum(0).T, strict=True)
        return [
            Point(
                float(rate),
                float(nats / (len(self.found) * k)),
                float(text / max(n, 1)),
                float(hit / max(n, 1)),
                int(n),
            )
            for rate, k, nats, text, hit, n in each
        ]

    def s0(self) -> ProtocolScore:
        """S0's: mask rate uniform, end tokens never masked, unweighted mean over all masked tokens of the batch.

        The mean over the curve's tokens: crowded rows count for more, as there.
        """
        _, nats, hits, asked = np.moveaxis(self.found, -1, 0)
        (loss, loss_stderr), (accuracy, accuracy_stderr) = (_ratio(value, asked) for value in (nats, hits))
        return ProtocolScore(loss, loss_stderr, accuracy, accuracy_stderr, self.masks)

    def s1(self) -> ProtocolScore:
        """S1's: mask rate uniform, every position may be masked, weight 1 / rate, divided by all positions of the row.

        The negative ELBO a position. Easy end tokens of the tail are among the positions, so it looks low.
        """
        each = self.found[..., 0] / self.masked
        return ProtocolScore(*_ratio(each, np.ones_like(each)), masks=self.masks)

    @property
    def masks(self) -> int:
        return int(np.prod(self.found.shape[:2]))


def _rates() -> np.ndarray:
    rates: np.ndarray = (np.arange(RATES) + 0.5) / RATES
    return rates


def _ratio(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float]:
    """sum / sum over [rows, rates], and its standard error.

    Neighbouring rates are pairs: by what their masks differ in a row, less what they differ by in all rows, is chance.
    Source: Cochran, Sampling Techniques, 5A.12: collapsed strata.
    """
    total, count = max(denominators.sum(), 1), len(numerators)
    ratio = numerators.sum() / total
    residual = numerators - ratio * denominators
    apart = residual[:, 0::2] - residual[:, 1::2]
    if count > 1:
        apart = (apart - apart.mean(0)) * math.sqrt(count / (count - 1))
    return float(ratio), float(np.sqrt((apart**2).sum()) / total)


def curve(denoiser: Denoiser, rows: Rows, *, mask_id: int, end_id: int, seed: int, sweep: Sweep = Sweep()) -> Curve:
    """One mask of exactly each rate's share for each row."""
    seq_len = rows.tokens.shape[1]
    count = np.ceil(_rates() * seq_len).astype(int)

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

    return Curve(sweep.over(score, len(rows)), count)


def s3_protocol(denoiser: Denoiser, rows: Rows, *, mask_id: int, seed: int, sweep: Sweep = Sweep()) -> ProtocolScore:
    """Seed S3's validation loss and accuracy, for comparison with its published numbers.

    Each row: t uniform in (0, 1), every token of the story and its first end token masked with probability
    1 - cos(pi t / 2), unweighted mean cross-entropy over all masked tokens. This is no likelihood bound, and it is
    conditioned on the story's length: the tail stays visible and is never masked, as padding is in S3.

    Here t is stratified over the rows of a pass, and passes go on until the errors are small: S3 takes one. The mean is
    the same. Passes are independent, so what they differ by is the error.
    """
    passes: list[np.ndarray] = []
    most = min(MOST_PASSES, max(FEWEST_PASSES, MOST_MASKS // len(rows)))
    while len(passes) < most and not (len(passes) >= FEWEST_PASSES and _is_sure(passes)):
        passes.append(_s3_pass(denoiser, rows, mask_id, seed, len(passes), sweep))
    (loss, loss_stderr), (accuracy, accuracy_stderr) = _s3_means(passes)
    return ProtocolScore(loss, loss_stderr, accuracy, accuracy_stderr, masks=len(passes) * len(rows))


def _s3_pass(denoiser: Denoiser, rows: Rows, mask_id: int, seed: int, number: int, sweep: Sweep) -> np.ndarray:
    """Nats, hits and masked tokens of all rows under one mask each."""
    t = _stratified(seed, number, len(rows))

    def score(numbers: np.ndarray) -> np.ndarray:
        x_0, is_text = sweep.tensor(rows.tokens[numbers]), is_text_position(rows)[numbers]
        masks = np.stack([_s3_mask(seed, number, row, t[row], is_text.shape[1]) for row in numbers]) & is_text
        is_masked = torch.from_numpy(masks)
        made = guess_masked(denoiser, x_0, is_masked.to(x_0.device), mask_id)
        return torch.stack([made.nats.sum(1), made.is_hit.sum(1), is_masked.sum(1)], dim=1).numpy()

    found: np.ndarray = sweep.over(score, len(rows)).sum(0)
    return found


def _s3_means(passes: list[np.ndarray]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Loss and accuracy, each with its standard error over passes."""
    nats, hits, masked = np.stack(passes).T
    return _over_passes(nats, masked), _over_passes(hits, masked)


def _over_passes(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float]:
    count, total = len(numerators), max(denominators.sum(), 1)
    ratio = numerators.sum() / total
    residual = numerators - ratio * denominators
    return float(ratio), float(np.sqrt(count / (count - 1) * (residual**2).sum()) / total)


def _is_sure(passes: list[np.ndarray]) -> bool:
    (_, loss_stderr), (_, accuracy_stderr) = _s3_means(passes)
    return loss_stderr < LOSS_ERROR and accuracy_stderr < ACCURACY_ERROR


def _stratified(seed: int, number: int, count: int) -> np.ndarray:
    """A t in (0, 1) for each row, one in each of `count` equal parts."""
    rng = np.random.default_rng((seed, _S3_DRAWS, number))
    parts: np.ndarray = (rng.permutation(count) + rng.random(count)) / count
    return parts


def _masks(seed: int, row: int, count: np.ndarray, seq_len: int) -> np.ndarray:
    """bool[rates, seq_len]: so many masked positions at each rate, every such set equally likely."""
    rng = np.random.default_rng((seed, _CURVE_DRAWS, row))
    rank = rng.random((len(count), seq_len)).argsort(axis=1).argsort(axis=1)
    return np.asarray(rank < count[:, None])


def _s3_mask(seed: int, number: int, row: int, t: float, seq_len: int) -> np.ndarray:
    rng = np.random.default_rng((seed, _S3_DRAWS, number, row))
    return rng.random(seq_len) < 1 - math.cos(math.pi * t / 2)
