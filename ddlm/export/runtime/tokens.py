"""What logits say about positions, and a token drawn for each: the library's `tokens` in numpy, for one row.

Weights stay in float32, and their sums and draws in float64, as there: other roundings would open other positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

if __package__:  # inside the library, which ships this file
    from ddlm import draws
else:
    import draws  # type: ignore[import-not-found,no-redef]

Array = np.ndarray[Any, Any]
COLDEST = 1e-30
"""Below it a temperature would be 0 in float32."""
LEAST_ODDS = 1e-15
"""Below it a float64 sum that begins with 1 tells nothing apart."""


@dataclass(frozen=True)
class Sampling:
    """How text is drawn: the fields of the library's `SamplingConfig`, which says what each means.

    `cache` is for the library alone: here the network always sees the whole canvas, which is exact.
    """

    unmasking: str
    num_sampling_steps: int
    grid: str
    block_size: int | None
    cache: str
    threshold: float | None
    entropy_bound: float | None
    most_per_step: int | None
    remask_share: float | None
    temperature: float
    final_temperature: float | None
    temperature_schedule: str
    top_k: int | None
    top_p: float
    repetition_penalty: float
    ends: str


@dataclass(frozen=True)
class Draw:
    """How tokens are drawn, and whose draws they are.

    forbidden: ids that can't come out. first_position: how much of the text lies before the canvas: draws are keyed by
    the place in the text. starts_word: positions whose token must be one of the ids that are True in `word_starts`,
    bool[v].
    """

    sampling: Sampling
    seed: int
    sample: int
    end_id: int
    mask_id: int
    forbidden: tuple[int, ...] = ()
    first_position: int = 0
    starts_word: tuple[int, ...] = ()
    word_starts: Array | None = None

    def forbid(self, logits: Array, position: Array) -> None:
        """In place: what can't come out gets -inf. position: of each row of logits."""
        logits[:, list(self.forbidden)] = -np.inf
        if self.word_starts is not None:
            logits[np.ix_(np.isin(position, self.starts_word), ~self.word_starts)] = -np.inf

    def words(self, step: int, position: Array) -> list[Array]:
        """The four words of places of the canvas, as float64."""
        return self._words(step, position + self.first_position)

    def _words(self, step: int, position: Array) -> list[Array]:
        sample, step_, block = (np.full_like(position, value) for value in (self.sample, step, draws.GENERATION_BLOCK))
        return [word.astype(np.float64) for word in draws.words(self.seed, sample, step_, position, block)]

    def row_words(self, step: int) -> list[float]:
        """Four words for the whole row."""
        return [float(word[0]) for word in self._words(step, np.array([draws.WHOLE_ROW], dtype=np.int64))]

    def uniform(self, step: int, position: Array) -> Array:
        """The number of each position that chooses its token."""
        _, high, low, _ = self.words(step, position)
        numbers: Array = draws.pair_to_unit(high, low)
        return numbers


def temperature_at(sampling: Sampling, written: float) -> float:
    """written: the share of the text that is written already, 0 … 1."""
    if sampling.final_temperature is None:
        return sampling.temperature
    progress = written
    if sampling.temperature_schedule == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return sampling.temperature + (sampling.final_temperature - sampling.temperature) * progress


def log_odds(logits: Array) -> Array:
    """log(p / (1 - p)) of the most likely token."""
    others = weights(logits).sum(axis=-1, dtype=np.float64) - 1
    odds: Array = -np.log(np.maximum(others, LEAST_ODDS))
    return odds


def margin(logits: Array) -> Array:
    """The probability of the most likely token less that of the next."""
    second, first = np.partition(logits, (-2, -1))[:, -2:].astype(np.float64).T
    ahead: Array = (1 - np.exp(second - first)) / weights(logits).sum(axis=-1, dtype=np.float64)
    return ahead


def entropy(logits: Array) -> Array:
    """In nats."""
    behind = np.maximum(logits - logits.max(axis=-1, keepdims=True), np.float32(-100))
    weight = np.exp(behind)
    total = weight.sum(axis=-1, dtype=np.float64)
    nats: Array = np.log(total) - (weight * behind).sum(axis=-1, dtype=np.float64) / total
    return nats


def weights(logits: Array) -> Array:
    """Probabilities as shares of the largest one."""
    shares: Array = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares


def wants(logits: Array, token: int) -> Array:
    """bool[n]: whether no token is more likely than this one."""
    wanted: Array = logits[:, token] >= logits.max(axis=-1)
    return wanted


def probability(logits: Array, token: Array) -> Array:
    """Of a token of each row, at temperature 1 and unfiltered."""
    weight = weights(logits)
    shares: Array = weight[np.arange(len(token)), token] / weight.sum(axis=-1)
    return shares


def probability_of(logits: Array, token: int) -> Array:
    shares: Array = np.exp(logits[:, token] - log_total(logits)[:, 0])
    return shares


def draw_tokens(logits: Array, uniform: Array, temperature: float, sampling: Sampling) -> Array:
    """One token a row, by inverting the cumulative distribution of what the filters leave, in the order of ids."""
    if sampling.temperature == 0:
        best: Array = logits.argmax(axis=-1)
        return best
    behind = logits - logits.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore"):
        weight = np.exp(behind / np.float32(max(temperature, COLDEST)))
    reached = keep_likely(weight, sampling).cumsum(axis=-1, dtype=np.float64)
    found: Array = (reached < uniform[:, None] * reached[:, -1:]).sum(axis=-1)
    return found


def keep_likely(weight: Array, sampling: Sampling) -> Array:
    """Top-k, then the most likely tokens until `top_p` is reached; the rest gets 0. Ties with the last are kept."""
    if sampling.top_k is not None and sampling.top_k < weight.shape[-1]:
        weight = weight * (weight >= np.partition(weight, -sampling.top_k)[:, [-sampling.top_k]])
    if sampling.top_p < 1:
        weight = weight * (weight >= nucleus_edge(weight, sampling.top_p))
    return weight


def nucleus_edge(weight: Array, top_p: float) -> Array:
    """The least likely token that the nucleus needs."""
    ordered = -np.sort(-weight, axis=-1)
    is_short = ordered.cumsum(axis=-1, dtype=np.float64) < top_p * weight.sum(axis=-1, keepdims=True, dtype=np.float64)
    needed = np.minimum(is_short.sum(axis=-1, keepdims=True), weight.shape[-1] - 1)
    edge: Array = np.take_along_axis(ordered, needed, axis=-1)
    return edge


def log_total(logits: Array) -> Array:
    """The logarithm of the sum of exponentials, a column."""
    largest = logits.max(axis=-1, keepdims=True)
    total: Array = largest + np.log(np.exp(logits - largest).sum(axis=-1, keepdims=True))
    return total


def penalise(logits: Array, is_used: Array, penalty: float) -> Array:
    """Make tokens that the text has already less likely. is_used: bool[v]."""
    less: Array = np.where(is_used, np.where(logits > 0, logits / penalty, logits * penalty), logits)
    return less
