"""The loader's speed."""

import tempfile
import time
from pathlib import Path
from typing import Any

from ddlm.bench.tokenize import build_inputs
from ddlm.data.loader import TokenLoader
from ddlm.experiment import Experiment

SECONDS = 2.0


def measure(experiment: Experiment) -> dict[str, Any]:
    """Tokens for each second that a core works, all threads of the loader counted; batches as training takes them."""
    with tempfile.TemporaryDirectory() as name:
        shards = build_inputs(experiment, Path(name), until="shards")["shards"]
        loader = TokenLoader(shards, "train", experiment.training.batch_size, experiment.seed, Path(name))
        batches = loader.batches(0, "cpu")
        next(batches)
        started, busy, tokens = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - started < SECONDS:
            tokens += next(batches).numel()
        busy = time.process_time() - busy
        batches.close()
    return {"tokens_per_s_per_core": tokens / busy, "batch_size": loader.batch_size, "seq_len": loader.seq_len}
