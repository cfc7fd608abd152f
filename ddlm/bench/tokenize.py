"""Tokenising and packing, against bare `tokenizers.encode_batch` on the same text."""

import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from ddlm.artifacts import ArtifactStore
from ddlm.data import ShardsConfig
from ddlm.data.corpus import SplitWriter, read_stories
from ddlm.data.shards import pack
from ddlm.experiment import Experiment
from ddlm.experiment.stages import Session, run_plainly
from ddlm.tokenizer import Tokenizer
from ddlm.tracking import TrackingConfig

TEXT_BYTES = 8_000_000
REPEATS = 3

ResultT = TypeVar("ResultT")


def measure(experiment: Experiment, text_bytes: int = TEXT_BYTES) -> dict[str, Any]:
    """Megabytes of text a second, the best of three runs of each in turn, every run in a fresh process.

    The experiment's own stories are repeated up to `text_bytes`. peak_memory_bytes: of a packing process.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = build_inputs(experiment, folder, until="tokenizer")
        size = repeat_stories(inputs["corpus"], folder / "repeated", text_bytes)
        arguments = (folder / "repeated", inputs["tokenizer"])
        packed, bare = [], []
        for _ in range(REPEATS):
            packed.append(in_fresh_process(time_packing, *arguments, experiment.shards))
            bare.append(in_fresh_process(time_bare, *arguments))
    seconds, bare_seconds = min(seconds for seconds, _ in packed), min(bare)
    return {
        "mb_per_s": size / seconds / 1e6,
        "bare_mb_per_s": size / bare_seconds / 1e6,
        "ratio": bare_seconds / seconds,
        "peak_memory_bytes": max(peak for _, peak in packed),
        "text_bytes": size,
    }


def build_inputs(experiment: Experiment, folder: Path, until: str) -> dict[str, Path]:
    """The artifacts of the first stages in a store of their own, untracked."""
    untracked = experiment.model_copy(update={"tracking": TrackingConfig(backend="none")})
    artifacts = run_plainly(Session(untracked, ArtifactStore(folder / "artifacts")), until=until)
    return {name: artifact.path for name, artifact in artifacts.items()}


def repeat_stories(corpus: Path, output: Path, text_bytes: int) -> int:
    """A corpus of the same train stories over and over. Returns its size in bytes of text."""
    stories = read_stories(corpus, "train")
    output.mkdir()
    train, validation = (SplitWriter(output / f"{split}.parquet") for split in ("train", "validation"))
    while train.text_bytes < text_bytes:
        for story in stories:
            train.add(story)
    validation.add(stories[0])
    train.close()
    validation.close()
    return train.text_bytes + validation.text_bytes


def in_fresh_process(action: Callable[..., ResultT], *arguments: Any) -> ResultT:
    """So that no run finds memory, caches or threads of another. Ends with this process, whatever ends it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_end_with_the_parent) as pool:
        return pool.submit(action, *arguments).result()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def time_packing(corpus: Path, tokenizer: Path, shards: ShardsConfig) -> tuple[float, int]:
    """Seconds, and this process's peak memory in bytes."""
    with tempfile.TemporaryDirectory(dir=corpus) as output:
        started = time.perf_counter()
        pack(corpus, Tokenizer.load(tokenizer), Path(output), shards)
        return time.perf_counter() - started, peak_memory_bytes()


def time_bare(corpus: Path, tokenizer: Path) -> float:
    """Seconds of `encode_batch` alone, on every core, the text already in memory."""
    texts = read_stories(corpus, "train")
    backend = Tokenizer.load(tokenizer).backend
    started = time.perf_counter()
    backend.encode_batch(texts)
    return time.perf_counter() - started


def peak_memory_bytes() -> int:
    """The kernel's own high-water mark: `ru_maxrss` of a spawned process begins at its parent's."""
    status = Path("/proc/self/status").read_text()
    peak = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    assert peak
    return int(peak[1]) * 1024
