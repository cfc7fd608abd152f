"""What does the bound cost beside the network, and how much variance does its estimator spare?

Question 1. How long does `ddlm.evaluation.likelihood.bound` take, against nothing but its runs of the network?
Method. The same rows under the same masks: once by `bound`, once by the network's answers at the masked positions
alone, masks made beforehand. The two take turns; the ratio is of the medians.

Question 2. With the same number of network runs, how does the variance of the any-order estimator (exact counts,
stratified) compare with plain Monte Carlo (a uniform time t for each mask, every position masked with probability t,
weight 1 / t)? Method. Each row is estimated with K masks, many times over; the variance of these estimates, mean over
the rows. The means must agree: both are unbiased.

    python benchmarks/likelihood.py MODEL --data validation.parquet --out likelihood.json
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from scoring import provenance
from torch import Tensor

from ddlm.data.corpus import read_source
from ddlm.data.packing import Rows
from ddlm.diffusion.bound import exact_k_masks, guess_masked
from ddlm.evaluation.likelihood import bound, replicated_masks
from ddlm.evaluation.subject import rows_from_texts
from ddlm.evaluation.sweep import Sweep
from ddlm.generation import DiffusionPipeline

Masks = Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]
"""Generator, masks and row length to masks bool[count, seq_len] and the weight of each one's nats."""


def ours(rng: np.random.Generator, count: int, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    masks = exact_k_masks(rng, count, seq_len)
    return masks, seq_len / masks.sum(1)


def plain(rng: np.random.Generator, count: int, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    times = rng.random(count)
    return rng.random((count, seq_len)) < times[:, None], 1 / times


def cost(pipeline: DiffusionPipeline, rows: Rows, masks_per_row: int, rounds: int) -> dict[str, Any]:
    seq_len, mask_id, model = pipeline.seq_len, pipeline.tokenizer.mask_id, pipeline.model
    x_0 = torch.from_numpy(rows.tokens.astype(np.int64))
    masks = torch.from_numpy(np.stack([replicated_masks(0, row, masks_per_row, seq_len) for row in range(len(rows))]))

    @torch.no_grad()
    def bare() -> None:
        for is_masked in masks.unbind(1):
            model.at(x_0.masked_fill(is_masked, mask_id), is_masked)

    def whole() -> None:
        bound(model.at, rows, mask_id=mask_id, masks_per_row=masks_per_row, seed=0, sweep=Sweep(len(rows)))

    seconds: dict[str, list[float]] = {"bare_s": [], "bound_s": []}
    for _ in range(rounds):
        for name, action in (("bare_s", bare), ("bound_s", whole)):
            started = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - started)
    middle = {name: median(values) for name, values in seconds.items()}
    return {**seconds, "ratio": middle["bound_s"] / middle["bare_s"], "rows": len(rows), "masks_per_row": masks_per_row}


@torch.no_grad()
def variance(pipeline: DiffusionPipeline, rows: Rows, make: Masks, masks: int, times: int) -> dict[str, float]:
    """Of a row's estimate with so many masks, in nats²: mean over rows of the variance over `times` estimates."""
    estimates = np.empty((len(rows), times))
    for number, tokens in enumerate(rows.tokens.astype(np.int64)):
        rng = np.random.default_rng((1, number))
        drawn = [make(rng, masks, pipeline.seq_len) for _ in range(times)]
        nats = [_nats(pipeline, tokens, hidden) for hidden, _ in drawn]
        estimates[number] = [
            float((value.sum(1).numpy() * weight).mean()) for value, (_, weight) in zip(nats, drawn, strict=True)
        ]
    return {"variance": float(estimates.var(axis=1, ddof=1).mean()), "mean_nats": float(estimates.mean())}


def _nats(pipeline: DiffusionPipeline, tokens: np.ndarray, hidden: np.ndarray) -> Tensor:
    x_0 = torch.from_numpy(tokens).expand(len(hidden), -1)
    return guess_masked(pipeline.model.at, x_0, torch.from_numpy(hidden), pipeline.tokenizer.mask_id).nats


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--masks", type=int, nargs="+", default=[4, 16, 64], help="of the variance's estimates")
    parser.add_argument("--times", type=int, default=16, help="estimates of each row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipeline = DiffusionPipeline.from_pretrained(args.model)
    rows = rows_from_texts(pipeline.tokenizer, read_source(args.data)[: args.rows], pipeline.seq_len)[0][: args.rows]
    found: dict[str, Any] = {"cost": cost(pipeline, rows, 64, args.rounds), "variance": []}
    for masks in args.masks:
        each = {name: variance(pipeline, rows[:8], make, masks, args.times) for name, make in METHODS.items()}
        ratio = each["plain"]["variance"] / each["ours"]["variance"]
        found["variance"].append({"masks": masks, "times": args.times, "rows": 8, **each, "ratio": ratio})
    document = json.dumps(found | {"threads": args.threads, **provenance()}, indent=1)
    print(document)
    if args.out:
        args.out.write_text(document + "\n")


METHODS: dict[str, Masks] = {"ours": ours, "plain": plain}

if __name__ == "__main__":
    main()
