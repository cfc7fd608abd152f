"""How likely a model finds rows of text: an upper bound on the negative log-likelihood, and seed S3's protocol.

Source of the bound: the negative ELBO of masked diffusion in its any-order form. For a row of L positions draw k
uniformly from 1 … L, mask k positions uniformly, and take L / k times the sum over the masked positions of
-log p(x_i | what is visible). Its expectation is the average over all orders of -log p(row in that order), which is
at or above -log p(row). Every position of the row is predicted, the tail of end tokens too: a tail that is visible
but free would leak the story's length.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddlm.data.packing import Rows
from ddlm.diffusion.bound import Network, any_order_estimate, exact_k_masks, guess_masked

MIN_S3_MASKS = 64
"""S3's protocol passes over a small set several times, so that its mean never rests on a handful of masks."""
RESAMPLES = 1000
_BOUND_DRAWS, _BOOTSTRAP_DRAWS, _S3_DRAWS = range(3)


@dataclass(frozen=True, eq=False)
class Bound:
    """An upper bound on the negative log-likelihood of some rows.

    nll_nats: nats per text token; text tokens are the stories' tokens and one end token each.
    nll_nats_stderr: Monte-Carlo standard error of nll_nats, from two independent replicates of the masks. It says how
        much other masks would move the number on these same stories.
    bits_per_byte: per UTF-8 byte of text, comparable between tokenizers.
    bits_per_byte_interval: 95 % bootstrap interval over stories. It says how much other stories would move the number.
    masked_accuracy: share of the masked text tokens that the most likely token hits, under the same masks.
    row_nats: float64[n], the nats of each row; for the same rows, masks and seed two models compare pairwise.
    """

    nll_nats: float
    nll_nats_stderr: float
    bits_per_byte: float
    bits_per_byte_interval: tuple[float, float]
    masked_accuracy: float
    row_nats: np.ndarray
    bound: str = "upper"


@dataclass(frozen=True)
class ProtocolScore:
    """A seed's own validation figures: mean cross-entropy in nats per masked token, and accuracy."""

    loss: float
    accuracy: float


@torch.no_grad()
def bound(
    denoiser: Network,
    rows: Rows,
    *,
    mask_id: int,
    masks_per_row: int,
    seed: int,
    story: np.ndarray | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
) -> Bound:
    """The bound by Monte Carlo, `masks_per_row` (even) masks a row. The masks depend on seed and row number alone.

    story: the story number of each row, for the bootstrap; without it each row counts as a story.
    """
    count, seq_len = rows.tokens.shape
    nats = np.empty((count, masks_per_row))
    hits = masked = 0
    for batch in _batches(count, batch_size):
        x_0 = _tensor(rows.tokens[batch], device)
        is_text = _tensor(is_text_position(rows)[batch], device)
        masks = np.stack([replicated_masks(seed, row, masks_per_row, seq_len) for row in range(count)[batch]])
        for index, is_masked in enumerate(_tensor(masks, device).unbind(1)):
            guess = guess_masked(denoiser, x_0, is_masked, mask_id)
            nats[batch, index] = any_order_estimate(guess.nats, is_masked).cpu().numpy()
            hits += int((guess.is_hit & is_text).sum())
            masked += int((is_masked & is_text).sum())
    story = np.arange(count) if story is None else story
    return _summarise(nats, rows, story, seed=seed, masked_accuracy=hits / max(masked, 1))


@torch.no_grad()
def s3_protocol(
    denoiser: Network,
    rows: Rows,
    *,
    mask_id: int,
    seed: int,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
) -> ProtocolScore:
    """Seed S3's validation loss and accuracy, for comparison with its published numbers.

    Each row: t uniform in (0, 1), every token of the story and its first end token masked with probability
    1 - cos(pi t / 2), unweighted mean cross-entropy over all masked tokens. This is no likelihood bound, and it is
    conditioned on the story's length: the tail stays visible and is never masked, as padding is in S3.
    """
    count, seq_len = rows.tokens.shape
    nats, hits, masked = 0.0, 0, 0
    for replicate in range(-(-MIN_S3_MASKS // count)):
        for batch in _batches(count, batch_size):
            masks = np.stack([_s3_mask(seed, replicate, row, seq_len) for row in range(count)[batch]])
            is_masked = _tensor(masks & is_text_position(rows)[batch], device)
            guess = guess_masked(denoiser, _tensor(rows.tokens[batch], device), is_masked, mask_id)
            nats += float(guess.nats.sum())
            hits += int(guess.is_hit.sum())
            masked += int(is_masked.sum())
    return ProtocolScore(loss=nats / masked, accuracy=hits / masked)


def replicated_masks(seed: int, row: int, masks_per_row: int, seq_len: int) -> np.ndarray:
    """bool[masks_per_row, seq_len]: two independent replicates, one after the other."""
    assert masks_per_row % 2 == 0, masks_per_row
    rng = np.random.default_rng((seed, _BOUND_DRAWS, row))
    return np.concatenate([exact_k_masks(rng, masks_per_row // 2, seq_len) for _ in range(2)])


def is_text_position(rows: Rows) -> np.ndarray:
    """bool[n, seq_len]: the story's tokens and its first end token, not the tail behind it."""
    return np.asarray(np.arange(rows.tokens.shape[1]) < np.asarray(rows.text_tokens)[:, None])


def bootstrap_interval(
    numerators: np.ndarray, denominators: np.ndarray, *, seed: int, coverage: float = 0.95
) -> tuple[float, float]:
    """The percentile interval of sum(numerators) / sum(denominators) when the pairs are drawn anew."""
    rng = np.random.default_rng((seed, _BOOTSTRAP_DRAWS))
    picks = (rng.integers(len(numerators), size=len(numerators)) for _ in range(RESAMPLES))
    ratios = [numerators[pick].sum() / denominators[pick].sum() for pick in picks]
    low, high = np.quantile(ratios, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)


def _summarise(nats: np.ndarray, rows: Rows, story: np.ndarray, *, seed: int, masked_accuracy: float) -> Bound:
    row_nats = nats.mean(axis=1)
    replicates = nats.reshape(len(nats), 2, -1).mean(axis=2)
    stderr = np.sqrt(((replicates[:, 0] - replicates[:, 1]) ** 2 / 4).sum())
    text_tokens, text_bytes = int(np.sum(rows.text_tokens)), int(np.sum(rows.text_bytes))
    story_bits = np.bincount(story, row_nats) / math.log(2)
    story_bytes = np.bincount(story, rows.text_bytes)
    return Bound(
        nll_nats=float(row_nats.sum() / text_tokens),
        nll_nats_stderr=float(stderr / text_tokens),
        bits_per_byte=float(story_bits.sum() / text_bytes),
        bits_per_byte_interval=bootstrap_interval(story_bits, story_bytes, seed=seed),
        masked_accuracy=masked_accuracy,
        row_nats=row_nats,
    )


def _s3_mask(seed: int, replicate: int, row: int, seq_len: int) -> np.ndarray:
    rng = np.random.default_rng((seed, _S3_DRAWS, replicate, row))
    mask_rate = 1 - math.cos(math.pi * rng.random() / 2)
    return rng.random(seq_len) < mask_rate


def _batches(count: int, batch_size: int) -> Iterator[slice]:
    return (slice(start, start + batch_size) for start in range(0, count, batch_size))


def _tensor(values: np.ndarray, device: torch.device | str) -> Tensor:
    """Token ids become int64, masks stay bool."""
    array = values if values.dtype == np.bool_ else values.astype(np.int64)
    return torch.from_numpy(array).to(device)
