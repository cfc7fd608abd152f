"""Counter-based random draws for generation: Philox 4x32-10.

A draw is a pure function of (seed, sample, step, position): the same in torch, numpy and JavaScript, whatever the batch
around it. Each such address has four words. The arithmetic below uses only `& ^ * >>` on 64-bit integers, so that one
piece of code serves numpy arrays and torch tensors; the Jetson bundle ships this very file, so it imports neither and
keeps to Python 3.10.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); tests hold its vectors.
"""

from __future__ import annotations

from typing import Any

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF
LANES = 4
GENERATION_BLOCK = 0
"""The block that generation draws from; training's are others, so that a seed's texts share no word with its noise."""
WHOLE_ROW = WORD
"""The position of draws that belong to a row and to none of its positions."""


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[Any, Any, Any, Any]:
    """Four 32-bit words for each counter.

    counter: four int64 arrays or tensors that broadcast, each value in [0, 2^32). key: two such integers.
    A 64-bit product wraps around as two's complement; its low and high words are right all the same once masked.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        low, high = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = ((high >> 32) & WORD) ^ c1 ^ k0, high & WORD, ((low >> 32) & WORD) ^ c3 ^ k1, low & WORD
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def words(seed: int, sample: Any, step: Any, position: Any, block: Any = GENERATION_BLOCK) -> tuple[Any, Any, Any, Any]:
    """The four words of an address. In generation: one that orders positions, two that choose a token, one for chances.

    seed: any integer, taken modulo 2^64. The others: int64 arrays or tensors that broadcast.
    """
    return philox((block, position, step, sample), (seed & WORD, (seed >> 32) & WORD))


def to_unit(word: Any) -> Any:
    """Words, already converted to float64, to (word + 1/2) / 2^32: never 0, never 1."""
    return (word + 0.5) / 4294967296.0


def pair_to_unit(high: Any, low: Any) -> Any:
    """Two words, already converted to float64, to 52 random bits between 0 and 1: never 0, never 1.

    32 bits would give tokens below 2^-32 no chance at all.
    """
    return ((high // 64) * 67108864.0 + low // 64 + 0.5) / 4503599627370496.0
