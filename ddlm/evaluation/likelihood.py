"""How likely a model finds rows of text: an upper bound on the negative log-likelihood, and seed S3's protocol.

Source of the bound: the negative ELBO of masked diffusion in its any-order form. For a row of L positions draw k
uniformly from 1 … L, mask k positions uniformly, and take L / k times the sum over the masked positions of
-log p(x_i | what is visible). Its expectation is the average over all orders of -log p(row in that order), which is
at or above -log p(row). Every position of the row is predicted, the tail of end tokens too: a tail that is visible
but free would leak the story's length.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddlm.data.packing import Rows

Denoiser = Callable[[Tensor], Tensor]
"""ids int64[b, l], masks among them, to logits float32[b, l, v]."""

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


@dataclass(frozen=True, eq=False)
class Guess:
    """What a denoiser made of masked positions: -log p of the true token (0 where visible), and whether it was the
    most likely one (False where visible). Both [b, l]."""

    nats: Tensor
    is_hit: Tensor


@torch.no_grad()
def bound(
    denoiser: Denoiser,
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
    denoiser: Denoiser,
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


def guess_masked(denoiser: Denoiser, x_0: Tensor, is_masked: Tensor, mask_id: int) -> Guess:
    """Hide the masked positions, call the denoiser once, and look only at what it says there."""
    logits = denoiser(torch.where(is_masked, mask_id, x_0))[is_masked]
    targets = x_0[is_masked]
    nats = torch.zeros(x_0.shape, dtype=torch.float64, device=x_0.device)
    nats[is_masked] = F.cross_entropy(logits, targets, reduction="none").double()
    is_hit = torch.zeros_like(is_masked)
    is_hit[is_masked] = logits.argmax(-1) == targets
    return Guess(nats, is_hit)


def any_order_estimate(nats: Tensor, is_masked: Tensor) -> Tensor:
    """[b], unbiased for the any-order bound of each row when the number of masks is uniform over 1 … l."""
    return nats.sum(1) * is_masked.shape[1] / is_masked.sum(1)


def replicated_masks(seed: int, row: int, masks_per_row: int, seq_len: int) -> np.ndarray:
    """bool[masks_per_row, seq_len]: two independent replicates, one after the other."""
    assert masks_per_row % 2 == 0, masks_per_row
    rng = np.random.default_rng((seed, _BOUND_DRAWS, row))
    return np.concatenate([exact_k_masks(rng, masks_per_row // 2, seq_len) for _ in range(2)])


def exact_k_masks(rng: np.random.Generator, count: int, seq_len: int) -> np.ndarray:
    """bool[count, seq_len]: sizes stratified over 1 … seq_len, so that their mixture is uniform; places uniform."""
    sizes = np.floor((np.arange(count) + rng.random(count)) / count * seq_len) + 1
    places = rng.random((count, seq_len)).argsort(axis=1).argsort(axis=1)
    return np.asarray(places < sizes[:, None])


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
