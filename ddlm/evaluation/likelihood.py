"""How likely a model finds rows of text, and how sure that number is.

Of a masked model: an upper bound on the negative log-likelihood, by Monte Carlo. Source: the negative ELBO of masked
diffusion in its any-order form. For a row of L positions draw k uniformly from 1 … L, mask k positions uniformly, and
take L / k times the sum over the masked positions of -log p(x_i | what is visible). Its expectation is the average over
all orders of -log p(row in that order), which is at or above -log p(row).

Of its autoregressive twin: -log p(row) itself, by one run of the network.

Every position of the row is predicted, the tail of end tokens too: a tail that is visible but free would leak the
story's length.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import torch

from ddlm.data.packing import Rows
from ddlm.diffusion.bound import any_order_estimate, exact_k_masks, guess, guess_masked
from ddlm.diffusion.view import Denoiser
from ddlm.evaluation.sweep import Sweep
from ddlm.model import transformer

RESAMPLES = 1000
FEWEST_STORIES = 20
"""That an interval is given for: a test shows that it covers."""
REPLICATES = 2
_BOUND_DRAWS, _BOOTSTRAP_DRAWS = 0, 1


@dataclass(frozen=True, eq=False)
class Likelihood:
    """The negative log-likelihood of some rows, or an upper bound on it: `bound` says which.

    nll_nats: nats per text token; text tokens are the stories' tokens and one end token each.
    nll_nats_stderr: Monte-Carlo standard error of nll_nats, from independent replicates of the masks. It says how much
        other masks would move the number on these same stories; 0 for what is exact.
    bits_per_byte: per UTF-8 byte of text, comparable between tokenizers.
    bits_per_byte_stderr: nll_nats_stderr in the same unit.
    bits_per_byte_interval: 95 % bootstrap interval over stories. It says how much other stories would move the number.
        None under FEWEST_STORIES, where none would cover as often as it says.
    nats_per_story: mean over the stories. nats_per_story_stderr: nll_nats_stderr in the same unit.
    variance_per_mask: nats², of what one mask says of a row, its share in a stratified set counted; None if exact.
    accuracy: share of the predicted text tokens that the most likely token hits: under the same masks, or with
        everything before them visible. accuracy_stderr: its Monte-Carlo standard error.
    row_nats: float64[n], the nats of each row; for the same rows, masks and seed two models compare pairwise.
    """

    bound: Literal["upper", "exact"]
    nll_nats: float
    nll_nats_stderr: float
    bits_per_byte: float
    bits_per_byte_stderr: float
    bits_per_byte_interval: tuple[float, float] | None
    nats_per_story: float
    nats_per_story_stderr: float
    variance_per_mask: float | None
    accuracy: float
    accuracy_stderr: float
    row_nats: np.ndarray


def likelihood_of(
    model: transformer.Denoiser,
    rows: Rows,
    *,
    masks_per_row: int,
    seed: int,
    story: np.ndarray | None = None,
    sweep: Sweep | None = None,
) -> Likelihood:
    """What can be had of this model: the exact value of an autoregressive one, else the bound."""
    chosen = sweep or Sweep(device=model.embedding.weight.device)
    if model.is_autoregressive:
        return exact(model.at, rows, seed=seed, story=story, sweep=chosen)
    wanted: Any = {"mask_id": model.vocab_size, "masks_per_row": masks_per_row, "seed": seed}
    return bound(model.at, rows, **wanted, story=story, sweep=chosen)


def bound(
    denoiser: Denoiser,
    rows: Rows,
    *,
    mask_id: int,
    masks_per_row: int,
    seed: int,
    story: np.ndarray | None = None,
    sweep: Sweep = Sweep(),
) -> Likelihood:
    """The bound, `masks_per_row` (even) masks a row. The masks depend on seed and row number alone.

    story: the story number of each row, for the bootstrap; without it each row counts as a story.
    """
    seq_len, text = rows.tokens.shape[1], torch.from_numpy(is_text_position(rows))

    def score(numbers: np.ndarray) -> np.ndarray:
        x_0, is_text = sweep.tensor(rows.tokens[numbers]), text[numbers]
        masks = np.stack([replicated_masks(seed, row, masks_per_row, seq_len) for row in numbers])
        found = []
        for is_masked in torch.from_numpy(masks).unbind(1):
            made = guess_masked(denoiser, x_0, is_masked.to(x_0.device), mask_id)
            hits, asked = (made.is_hit & is_text).sum(1), (is_masked & is_text).sum(1)
            found.append(torch.stack([any_order_estimate(made.nats, is_masked), hits, asked], dim=1))
        return torch.stack(found, dim=1).numpy()

    return summarise(sweep.over(score, len(rows)), rows, story, seed, "upper")


def exact(
    denoiser: Denoiser,
    rows: Rows,
    *,
    seed: int,
    story: np.ndarray | None = None,
    sweep: Sweep = Sweep(),
) -> Likelihood:
    """Of a denoiser whose every position sees only what stands before it. seed: of the bootstrap alone."""
    text = torch.from_numpy(is_text_position(rows))

    def score(numbers: np.ndarray) -> np.ndarray:
        x_0, is_text = sweep.tensor(rows.tokens[numbers]), text[numbers]
        made = guess(denoiser, x_0, x_0, torch.ones_like(x_0, dtype=torch.bool))
        parts = torch.stack([made.nats.sum(1), (made.is_hit & is_text).sum(1), is_text.sum(1)], dim=1)
        return parts[:, None].numpy()

    return summarise(sweep.over(score, len(rows)), rows, story, seed, "exact")


def replicated_masks(seed: int, row: int, masks_per_row: int, seq_len: int) -> np.ndarray:
    """bool[masks_per_row, seq_len]: independent replicates, one after the other, each with stratified counts."""
    assert masks_per_row % REPLICATES == 0, masks_per_row
    rng = np.random.default_rng((seed, _BOUND_DRAWS, row))
    each = [exact_k_masks(rng, masks_per_row // REPLICATES, seq_len) for _ in range(REPLICATES)]
    return np.concatenate(each)


def is_text_position(rows: Rows) -> np.ndarray:
    """bool[n, seq_len]: the story's tokens and its first end token, not the tail behind it."""
    return np.asarray(np.arange(rows.tokens.shape[1]) < np.asarray(rows.text_tokens)[:, None])


def ratio_of(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float]:
    """sum / sum over [rows, replicates], and its standard error: what two replicates differ by, row by row; else 0."""
    total = max(denominators.sum(), 1)
    ratio = numerators.sum() / total
    residual = numerators - ratio * denominators
    return float(ratio), float(np.sqrt(((residual[:, 0] - residual[:, -1]) ** 2).sum()) / total)


def bootstrap_interval(
    numerators: np.ndarray, denominators: np.ndarray, *, seed: int, coverage: float = 0.95
) -> tuple[float, float]:
    """The percentile interval of sum(numerators) / sum(denominators) when the pairs are drawn anew.

    Widened about the ratio as Student's quantile is wider than the normal one, and by sqrt(n / (n - 1)): percentiles
    alone cover too seldom where n is small. Source: Hesterberg, What teachers should know about the bootstrap, 2015.
    """
    count = len(numerators)
    rng = np.random.default_rng((seed, _BOOTSTRAP_DRAWS))
    picks = (rng.integers(count, size=count) for _ in range(RESAMPLES))
    ratios = [numerators[pick].sum() / denominators[pick].sum() for pick in picks]
    low, high = np.quantile(ratios, [(1 - coverage) / 2, (1 + coverage) / 2])
    ratio, wider = numerators.sum() / denominators.sum(), _widening(count, (1 + coverage) / 2)
    return float(ratio + wider * (low - ratio)), float(ratio + wider * (high - ratio))


def _widening(count: int, share: float) -> float:
    """By how much Student's interval for a mean of `count` values is wider than the plug-in one.

    Source: Abramowitz & Stegun, 26.7.5: the quantile as a series, within 0.2 % from 8 degrees of freedom on.
    """
    if count < 2:
        return 1.0
    z, free = NormalDist().inv_cdf(share), count - 1
    quantile = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return quantile / z * math.sqrt(count / free)


def per_byte(
    row_nats: np.ndarray, rows: Rows, story: np.ndarray | None, seed: int
) -> tuple[float, tuple[float, float] | None]:
    """Bits per byte of the rows' text, and the bootstrap interval over stories where there are enough of them."""
    numbers = np.arange(len(rows)) if story is None else story
    bits, size = np.bincount(numbers, row_nats) / math.log(2), np.bincount(numbers, rows.text_bytes)
    return float(bits.sum() / size.sum()), interval_over_stories(bits, size, seed=seed)


def interval_over_stories(bits: np.ndarray, size: np.ndarray, *, seed: int) -> tuple[float, float] | None:
    """None under FEWEST_STORIES. bits, size: of each story."""
    return bootstrap_interval(bits, size, seed=seed) if len(size) >= FEWEST_STORIES else None


def summarise(
    found: np.ndarray, rows: Rows, story: np.ndarray | None, seed: int, kind: Literal["upper", "exact"]
) -> Likelihood:
    """found: (rows, masks, 3), a replicate of masks after the other: the nats of a row, the hits among its predicted
    text tokens, and the number of those."""
    rows_count, masks = found.shape[:2]
    replicates = found.reshape(rows_count, -1, max(1, masks // REPLICATES), 3)
    nats, row_nats = replicates[..., 0].mean(axis=2), found[..., 0].mean(axis=1)
    row_variance = ((nats - row_nats[:, None]) ** 2).sum(1) / (REPLICATES * (REPLICATES - 1))
    accuracy, accuracy_stderr = ratio_of(replicates[..., 1].sum(2), replicates[..., 2].sum(2))
    stories = rows_count if story is None else len(np.unique(story))
    text_tokens = int(np.sum(rows.text_tokens))
    bits_per_byte, interval = per_byte(row_nats, rows, story, seed)
    stderr = float(np.sqrt(row_variance.sum()))
    return Likelihood(
        bound=kind,
        nll_nats=float(row_nats.sum() / text_tokens),
        nll_nats_stderr=stderr / text_tokens,
        bits_per_byte=bits_per_byte,
        bits_per_byte_stderr=stderr / math.log(2) / int(np.sum(rows.text_bytes)),
        bits_per_byte_interval=interval,
        nats_per_story=float(row_nats.sum() / stories),
        nats_per_story_stderr=stderr / stories,
        variance_per_mask=float(row_variance.mean() * masks) if kind == "upper" else None,
        accuracy=accuracy,
        accuracy_stderr=accuracy_stderr,
        row_nats=row_nats,
    )
