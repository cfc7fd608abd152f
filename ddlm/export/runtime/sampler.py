"""The reverse process in numpy: a canvas with masks in, the canvas after each step out.

Positions are chosen first, then a token is drawn for each of them. It repeats the library's sampler draw for draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

if __package__:  # inside the library, which ships this file
    from ddlm import draws
else:
    import draws  # type: ignore[import-not-found,no-redef]

END_PENALTY = 1000.0
"""Larger than any difference of log-probabilities: an end token is opened after everything else."""

Array = np.ndarray[Any, Any]
Network = Callable[[Array], Array]
"""Token ids [seq_len] to float32 logits [seq_len, vocab_size]."""


@dataclass(frozen=True)
class Sampling:
    """How text is drawn. temperature 0 takes the most likely token; top_k None and top_p 1 keep all."""

    unmasking: str
    num_sampling_steps: int
    temperature: float
    top_k: int | None
    top_p: float


@dataclass(frozen=True)
class Special:
    """The ids with a meaning of their own; a mask is never drawn."""

    end_id: int
    mask_id: int


@dataclass(frozen=True)
class Moment:
    """Whose random draws: with a position and a token id this fixes each of them."""

    seed: int
    sample: int
    step: int


@dataclass(frozen=True)
class View:
    """What a policy may look at: the masked positions before a step, with their logits."""

    logits: Array
    positions: Array
    moment: Moment
    end_id: int


def canvas(prompt: list[int], seq_len: int, special: Special) -> Array:
    """The prompt's tokens, then masks."""
    return np.array(prompt + [special.mask_id] * (seq_len - len(prompt)), dtype=np.int64)


def denoise(
    network: Network, start: Array, special: Special, sampling: Sampling, draw: tuple[int, int]
) -> Iterator[Array]:
    """The canvas after each step, until no position is masked. draw: the seed and the number of the sample."""
    ids = start.copy()
    total = int((ids == special.mask_id).sum())
    num_steps = min(sampling.num_sampling_steps, total)
    for step in range(num_steps):
        moment = Moment(*draw, step)
        masked = np.flatnonzero(ids == special.mask_id)
        logits = network(ids)[masked]
        scores = POLICIES[sampling.unmasking](View(logits, masked, moment, special.end_id))
        opened = choose(scores, len(masked) - masked_after(total, step, num_steps))
        ids[masked[opened]] = draw_tokens(logits[opened], masked[opened], moment, sampling)
        yield ids.copy()


def masked_after(total: int, step: int, num_steps: int) -> int:
    """How many of `total` positions stay masked after a step, counted from 0: an even grid."""
    return total * (num_steps - 1 - step) // num_steps


def choose(scores: Array, count: int) -> Array:
    """Indices of the `count` largest scores; ties go to the lower position."""
    return np.argsort(-scores, kind="stable")[:count]


def random(view: View) -> Array:
    """A random order."""
    sample, step = np.int64(view.moment.sample), np.int64(view.moment.step)
    words: Array = draws.position_words(view.moment.seed, sample, step, view.positions)
    return words


def confidence(view: View) -> Array:
    """The most certain position first; one that wants the end token waits until no other is left."""
    total = np.exp(view.logits - view.logits.max(axis=-1, keepdims=True)).sum(axis=-1)
    wants_end = view.logits.argmax(axis=-1) == view.end_id
    scores: Array = -np.log(total) - np.float32(END_PENALTY) * wants_end.astype(np.float32)
    return scores


POLICIES = {"confidence": confidence, "random": random}


def draw_tokens(logits: Array, positions: Array, moment: Moment, sampling: Sampling) -> Array:
    """One token for each row by the Gumbel-max trick in float64, over what the filters leave."""
    if sampling.temperature == 0:
        return best(logits)
    scaled = keep_likely(logits.astype(np.float64) / sampling.temperature, sampling)
    uniform = token_uniforms(positions, moment, vocab_size=logits.shape[-1])
    return best(scaled - np.log(-np.log(uniform)))


def best(scores: Array) -> Array:
    """The id with the largest score in each row; ties go to the lower id."""
    ids: Array = scores.argmax(axis=-1)
    return ids


def token_uniforms(positions: Array, moment: Moment, vocab_size: int) -> Array:
    """A number in (0, 1) for each position and token id."""
    block = np.arange(-(-vocab_size // draws.LANES), dtype=np.int64)[None]
    words = draws.words(moment.seed, np.int64(moment.sample), np.int64(moment.step), positions[:, None], block)
    lanes = np.stack(words, axis=-1).reshape(len(positions), -1)[:, :vocab_size]
    uniform: Array = draws.to_unit(lanes.astype(np.float64))
    return uniform


def keep_likely(scaled: Array, sampling: Sampling) -> Array:
    """Top-k, then the smallest set of most likely tokens that reaches top_p; the rest gets -inf. Ties: lower id."""
    if sampling.top_k is None and sampling.top_p == 1:
        return scaled
    order = np.argsort(-scaled, axis=-1, kind="stable")
    ordered = np.take_along_axis(scaled, order, axis=-1)
    if sampling.top_k is not None:
        ordered[:, sampling.top_k :] = -np.inf
    weight = np.exp(ordered - ordered[:, :1])
    reached = (weight / weight.sum(axis=-1, keepdims=True)).cumsum(axis=-1)
    ordered[:, 1:][reached[:, :-1] >= sampling.top_p] = -np.inf
    kept = np.empty_like(scaled)
    np.put_along_axis(kept, order, ordered, axis=-1)
    return kept
