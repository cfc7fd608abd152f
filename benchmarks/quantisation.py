"""What does each way of quantising a trained network cost in quality?

Question. Which layers can be integers, how should ranges of activations be found, and what is lost against float32:
in agreement, KL, bits per byte on real text, and in what the network writes?

Method. Every arm is a graph of the same network, run by onnxruntime on the processor. Ranges come from validation
stories that nothing is measured on, masked at four noise levels. All arms are measured under the same masks and write
texts with the same seeds; the change of bits per byte has a paired bootstrap interval over rows.

    python benchmarks/quantisation.py MODEL --data validation.parquet --judge FOLDER --out quantisation.json
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddlm.data.corpus import read_source
from ddlm.diffusion import SamplingConfig
from ddlm.evaluation.judge import Judge
from ddlm.evaluation.subject import rows_from_texts
from ddlm.export import gates, quality, quantize
from ddlm.export.onnx import export_logits, halved
from ddlm.export.variants import network_of
from ddlm.generation import DiffusionPipeline

CALIBRATION_ROWS = 16
Maker = Callable[[Path], None]


def makers(float32: Path, float16: Path, feeds: Sequence[Any], vocab_size: int) -> dict[str, Maker]:
    """The arms by name; the first of each scheme is what a bundle has."""
    size: dict[str, int] = {"vocab_size": vocab_size}
    ranges = {
        percentile: quantize.calibrate(float32, feeds, percentile=percentile, **size)
        for percentile in (99.9, quantize.PERCENTILE, 100.0)
    }
    usual = ranges[quantize.PERCENTILE]
    return {
        "int8_dynamic": lambda path: quantize.dynamic(float32, path, **size),
        "… down in one part": lambda path: quantize.dynamic(float32, path, twice=quantize.nothing, **size),
        "… down in float32": lambda path: quantize.dynamic(float32, path, keep=quantize.narrows, **size),
        "int8_static": lambda path: quantize.static(float16, path, usual, **size),
        "… percentile 99.9": lambda path: quantize.static(float16, path, ranges[99.9], **size),
        "… largest value": lambda path: quantize.static(float16, path, ranges[100.0], **size),
        "… down too": lambda path: quantize.static(float16, path, usual, keep=quantize.head, **size),
        "… down and head too": lambda path: quantize.static(float16, path, usual, keep=quantize.nothing, **size),
        "int4": lambda path: quantize.int4(float16, path, **size),
    }


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    pipeline = DiffusionPipeline.from_pretrained(args.model, precision="float32")
    stories, mask_id = read_source(args.data), pipeline.tokenizer.mask_id
    rows = rows_from_texts(pipeline.tokenizer, stories[: args.rows], pipeline.seq_len)[0][: args.rows]
    others = rows_from_texts(pipeline.tokenizer, stories[args.rows :][:CALIBRATION_ROWS], pipeline.seq_len)[0]
    masked = np.concatenate(gates.masked_batches(others.tokens[:CALIBRATION_ROWS], mask_id, seed=1))
    paths = {name: folder / f"{name}.onnx" for name in ("float32", "float16")}
    export_logits(pipeline.model, pipeline.seq_len, paths["float32"], 18)
    export_logits(halved(pipeline.model), pipeline.seq_len, paths["float16"], 18)
    feeds = [{"ids": row[None]} for row in masked]
    for name, make in makers(paths["float32"], paths["float16"], feeds, pipeline.tokenizer.vocab_size).items():
        make(folder / name)
        paths[name] = folder / name
    ground = quality.Ground(
        pipeline.tokenizer, rows, gates.masked_batches(rows.tokens[:16], mask_id, seed=0),
        pipeline.suited(SamplingConfig()), seed=0, masks_per_row=args.masks, samples=args.texts,
        is_autoregressive=pipeline.is_autoregressive, judge=Judge.load(args.judge) if args.judge else None,
    )  # fmt: skip
    opened = {name: network_of(path) for name, path in paths.items() if name != "float32"}
    found = quality.measure(network_of(paths["float32"]), opened, ground)
    return {name: {"bytes": paths[name].stat().st_size, **of} for name, of in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--judge", help="folder or hub id of a causal language model")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--masks", type=int, default=4)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("quantisation.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = run(args, Path(folder))
    args.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(quality.table(found))


if __name__ == "__main__":
    main()
