"""Minimal pairs: of two sentences that differ in one point of grammar, which one does the model find likelier?

Source: Warstadt et al., BLiMP, 2020, for the question and the format of the files. A sentence is a whole story here:
its tokens, an end token, and end tokens up to the row's length, since those are the rows that a model is trained on.

Two answers: the exact chain rule from left to right, up to the end token, which ends a text that is written so; and the
any-order bound by Monte Carlo, over every position of the row. The bound's masks are
paired. What other masks would change in one sentence's bound is mostly the same in the other's, so both see one draw:
`paired_masks` lays one row's positions upon the other's, one to one, so that each row's masks keep their distribution,
and equal tokens are hidden together. The difference of the two bounds keeps its mean and loses most of its variance.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddlm.config import UserError
from ddlm.diffusion.bound import any_order_estimate, exact_k_masks, guess, guess_masked
from ddlm.diffusion.view import Denoiser
from ddlm.evaluation.chain_rule import chain_rule, one_by_one
from ddlm.evaluation.sweep import Sweep
from ddlm.generation import DiffusionPipeline

SENTENCES = ("sentence_good", "sentence_bad")
PHENOMENON = ("linguistics_term", "UID")
"""Keys that name what a pair is about: the first that it has, else its file's name."""
TIE_NATS = 1e-4
"""Closer than that is a tie: about what float32 leaves of a sum over a row."""
Z_95 = 1.96


@dataclass(frozen=True)
class Pair:
    """line: where it was read, file and line number."""

    good: str
    bad: str
    phenomenon: str
    line: str


@dataclass(frozen=True)
class Accuracy:
    """The share of pairs whose good sentence is the likelier one; a tie counts half. interval: Wilson's, 95 %."""

    accuracy: float
    interval: tuple[float, float]
    pairs: int

    @classmethod
    def of(cls, margins: np.ndarray) -> "Accuracy":
        won = float(np.mean(np.where(np.abs(margins) < TIE_NATS, 0.5, margins > 0)))
        return cls(won, wilson_interval(won, len(margins)), len(margins))


@dataclass(frozen=True)
class Verdict:
    """margins: nats by which the good sentence is likelier, in the pairs' order; two models compare pairwise."""

    overall: Accuracy
    by_phenomenon: dict[str, Accuracy]
    margins: tuple[float, ...]

    @classmethod
    def of(cls, margins: np.ndarray, pairs: Sequence[Pair]) -> "Verdict":
        numbers = defaultdict(list)
        for number, pair in enumerate(pairs):
            numbers[pair.phenomenon].append(number)
        by_phenomenon = {name: Accuracy.of(margins[numbers[name]]) for name in sorted(numbers)}
        return cls(Accuracy.of(margins), by_phenomenon, tuple(margins.tolist()))


@dataclass(frozen=True)
class PairScores:
    """chain_rule: exact, from left to right. bound: None of an autoregressive model, which has one order only.

    What noise the masks leave pulls the bound's accuracy towards a half; more masks make it less.
    """

    chain_rule: Verdict
    bound: Verdict | None


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a jsonl file in BLiMP's format, or of all such files in a folder, by name.

    Raises: UserError naming file and line for what is no pair.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"pairs {path}: no .jsonl file in it; give a file or folder in BLiMP's format")
    return [pair for file in files for pair in _read_file(file)]


def score_pairs(
    pipeline: DiffusionPipeline, pairs: Sequence[Pair], *, masks: int, seed: int, batch_size: int = 32
) -> PairScores:
    """Judge every pair by the chain rule and by the bound, with `masks` masks a sentence.

    The masks depend on the seed and the pair's number. batch_size: rows that the network sees at once.
    Raises: UserError naming a pair that is too long for the model.
    """
    tokens = _encode(pipeline, pairs)

    def score(numbers: np.ndarray) -> np.ndarray:
        rows = _rows([ids for number in numbers for ids in tokens[number]], pipeline)
        found = [_exact_nats(pipeline, rows, [len(ids) + 1 for number in numbers for ids in tokens[number]])]
        if not pipeline.is_autoregressive:
            drawn = [
                paired_masks(np.random.default_rng((seed, i)), *tokens[i], masks=masks, seq_len=pipeline.seq_len)
                for i in numbers
            ]
            is_masked = torch.from_numpy(np.concatenate(drawn))
            found.append(bound_nats(pipeline.model.at, rows, is_masked, pipeline.tokenizer.mask_id))
        return torch.stack([_margins(nats) for nats in found], dim=1).numpy()

    sweep = Sweep(batch_size=max(batch_size // 2, 1), label="scoring pairs, batches")
    exact, *bound = (Verdict.of(margins, pairs) for margins in sweep.over(score, len(pairs)).T)
    return PairScores(exact, bound[0] if bound else None)


def paired_masks(
    rng: np.random.Generator, good: Sequence[int], bad: Sequence[int], *, masks: int, seq_len: int
) -> np.ndarray:
    """bool[2, masks, seq_len]: one draw of masks, laid upon the good sentence's row and upon the bad one's.

    From the left, position lies on position; what both sentences end with, and the tail behind it, is moved by the
    difference of their lengths. The tokens that the longer one has in excess take the places that its tail lacks.
    """
    drawn = exact_k_masks(rng, masks, seq_len)
    shorter, longer = sorted((good, bad), key=len)
    excess = len(longer) - len(shorter)
    places = np.arange(seq_len)
    cut = len(shorter) - _common_suffix(shorter, longer)
    in_shorter = np.concatenate([places[:cut], places[seq_len - excess :], places[cut : seq_len - excess]])
    laid = [drawn if len(sentence) == len(shorter) else drawn[:, in_shorter] for sentence in (good, bad)]
    return np.stack(laid)


def bound_nats(
    denoiser: Denoiser, rows: Int[Tensor, "b l"], is_masked: Bool[Tensor, "b masks l"], mask_id: int
) -> Float[Tensor, " b"]:
    """The any-order bound on each row's nats, under masks of its own."""
    estimates = [
        any_order_estimate(guess_masked(denoiser, rows, hidden.to(rows.device), mask_id).nats, hidden)
        for hidden in is_masked.unbind(1)
    ]
    return torch.stack(estimates).mean(0)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share of `count` (Wilson, 1927)."""
    weight = Z_95**2 / count
    centre = (share + weight / 2) / (1 + weight)
    half = Z_95 * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    return centre - half, centre + half


def _exact_nats(pipeline: DiffusionPipeline, rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """From left to right up to each sentence's end token: writing ends there, whatever a tail would be."""
    is_text = torch.arange(rows.shape[1], device=rows.device) < torch.tensor(sizes, device=rows.device)[:, None]
    if pipeline.is_autoregressive:  # one run instead of one for each position
        return guess(pipeline.model.at, rows, rows, is_text).nats.sum(1)
    left_to_right = one_by_one("left_to_right", pipeline.seq_len)
    wanted: Any = {"mask_id": pipeline.tokenizer.mask_id, "sampling": left_to_right}
    return chain_rule(pipeline.model.at, rows, is_text, is_hidden=~is_text, **wanted).sum(1)


def _margins(nats: Float[Tensor, " b"]) -> Float[Tensor, " pairs"]:
    """Of rows good, bad, good, bad, …"""
    good, bad = nats.view(-1, 2).unbind(1)
    return bad - good


def _rows(sentences: Sequence[Sequence[int]], pipeline: DiffusionPipeline) -> Tensor:
    filled = [[*ids, *[pipeline.tokenizer.end_id] * (pipeline.seq_len - len(ids))] for ids in sentences]
    return torch.tensor(filled, device=pipeline.device)


def _encode(pipeline: DiffusionPipeline, pairs: Sequence[Pair]) -> list[tuple[list[int], list[int]]]:
    good = pipeline.tokenizer.encode_stories([pair.good for pair in pairs])
    bad = pipeline.tokenizer.encode_stories([pair.bad for pair in pairs])
    most = pipeline.seq_len - 1
    for pair, *sides in zip(pairs, good, bad, strict=True):
        longest = max(map(len, sides))
        if longest > most:
            raise UserError(
                f"{pair.line}: a sentence of {longest} tokens, but the model takes {most} and an end; leave it out"
            )
    return list(zip(good, bad, strict=True))


def _common_suffix(one: Sequence[int], other: Sequence[int]) -> int:
    equal = (a == b for a, b in zip(reversed(one), reversed(other), strict=False))
    return sum(1 for _ in takewhile(bool, equal))


def _read_file(path: Path) -> Iterator[Pair]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"pairs {path}: can't be read ({error}); give a jsonl file in BLiMP's format") from None
    if not any(line.strip() for line in lines):
        raise UserError(f"pairs {path}: it is empty; give lines in BLiMP's format")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _read_line(line, f"{path}:{number}", path.stem)


def _read_line(line: str, where: str, phenomenon: str) -> Pair:
    try:
        document = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); mend or delete the line") from None
    if not isinstance(document, dict):
        raise UserError(f"{where}: got {line[:40]!r}; wanted an object with {' and '.join(SENTENCES)}")
    for name in SENTENCES:
        sentence = document.get(name)
        if not isinstance(sentence, str) or not sentence.strip():
            got = "is missing" if name not in document else f"is {sentence!r}"
            raise UserError(f"{where}: {name} {got}; wanted a sentence")
    named = [document[key] for key in PHENOMENON if document.get(key)]
    good, bad = (document[name].strip() for name in SENTENCES)
    return Pair(good, bad, str(named[0]) if named else phenomenon, where)
