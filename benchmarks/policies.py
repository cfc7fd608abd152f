"""What does each way of writing cost, and what does it write?

Question. Of a trained model: how many runs of the network does a text take under each unmasking policy, how long are
the texts, and how do they look to a judge that never saw the model?

Method. Every arm writes the same number of texts from nothing with the same seed. A causal language model of stories
(transformers, extra `judge`) gives the negative log-likelihood of each text, beside the entropy of its words, since a
judge alone prefers what repeats itself; distinct word pairs; and the length in the model's tokens, beside that of the
rows that the model was trained to write: validation stories, cut at its canvas. Those stories are an arm too.

    python benchmarks/policies.py MODEL --data validation.parquet --judge FOLDER --samples 64 --out policies.jsonl \\
        --arm confidence unmasking=confidence --arm threshold unmasking=threshold num_sampling_steps=320
    python benchmarks/policies.py --table --out policies.jsonl
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from ddlm.config import parse, parse_override
from ddlm.data.corpus import read_source
from ddlm.diffusion import SamplingConfig
from ddlm.evaluation.judge import Judge
from ddlm.evaluation.text import distinct, unigram_entropy_nats
from ddlm.generation import DiffusionPipeline

COLUMNS = ("arm", "calls", "tokens", "tokens_of_data", "judge_perplexity", "entropy_nats", "distinct_2", "tokens_per_s")


def judged(texts: Sequence[str], judge: Judge) -> dict[str, Any]:
    return {
        "texts": len(texts),
        "judge_perplexity": judge.score(texts).perplexity,
        "entropy_nats": unigram_entropy_nats(texts),
        "distinct_2": distinct(texts, 2),
    }


def write(
    pipeline: DiffusionPipeline, settings: Sequence[str], args: argparse.Namespace
) -> tuple[list[str], dict[str, Any]]:
    sampling = parse(SamplingConfig, dict(map(parse_override, settings)), source="sampling")
    made = pipeline.generate(num_samples=args.samples, sampling=sampling, seed=args.seed, rows_at_once=args.rows)
    batches = -(-args.samples // args.rows)
    return [sample.text for sample in made.samples], {
        "settings": list(settings),
        "calls": made.calls / batches,
        "tokens": mean(len(sample.tokens) for sample in made.samples),
        "tokens_per_s": made.tokens_per_s,
        "precision": made.precision,
    }


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    pipeline = DiffusionPipeline.from_pretrained(args.model, "auto")
    judge = Judge.load(args.judge, pipeline.device)
    stories = read_source(args.data)[: args.stories]
    lengths = [min(len(ids), pipeline.seq_len) for ids in pipeline.tokenizer.encode_batch(stories)]
    done = {line["arm"] for line in read(args.out)}
    for name, *settings in [["data"], *args.arm]:
        if name in done:
            continue
        if name == "data":
            cut = [
                pipeline.tokenizer.decode(ids[: pipeline.seq_len]) for ids in pipeline.tokenizer.encode_batch(stories)
            ]
            texts, figures = cut[: args.samples], {"tokens": mean(lengths)}
        else:
            texts, figures = write(pipeline, settings, args)
        line = {"arm": name, **figures, "tokens_of_data": mean(lengths), **judged(texts, judge), "text": texts[0]}
        with args.out.open("a") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        print(json.dumps({key: line.get(key) for key in COLUMNS}), flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(lines: Sequence[dict[str, Any]]) -> str:
    rows = [[line.get(name, "") for name in COLUMNS] for line in lines]
    shown = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(COLUMNS), ["---"] * len(COLUMNS), *shown])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--judge", help="folder or hub id of a causal language model")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rows", type=int, default=32, help="texts at once")
    parser.add_argument("--stories", type=int, default=1000, help="of the data, for its lengths")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--arm", nargs="+", action="append", default=[], metavar=("NAME", "KEY=VALUE"))
    parser.add_argument("--out", type=Path, default=Path("policies.jsonl"))
    parser.add_argument("--table", action="store_true", help="print --out as a table; run nothing")
    args = parser.parse_args()
    if args.table:
        print(table(read(args.out)))
        return
    if not (args.model and args.data and args.judge):
        parser.error("give MODEL, --data and --judge")
    run(args)


if __name__ == "__main__":
    main()
