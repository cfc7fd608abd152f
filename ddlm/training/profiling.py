"""Where the time and the memory of a step go: named regions for nsys, a trace for a browser, a memory snapshot."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

logger = logging.getLogger(__name__)

WAIT, TRACED = 3, 4
"""Steps before the trace, and in it. The first of them pays for the tracer's own start."""


@contextmanager
def region(name: str) -> Iterator[None]:
    """A part of a step, named in the trace and, on CUDA, as an NVTX range."""
    with record_function(name):
        if torch.cuda.is_available():
            torch.cuda.nvtx.range_push(name)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            if torch.cuda.is_available():
                torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]


@contextmanager
def traced(folder: Path) -> Iterator[Callable[[], None]]:
    """Yields what is to be called after each step. Writes trace.json (chrome://tracing, perfetto.dev) after a few.

    On CUDA also memory.pickle, for pytorch.org/memory_viz, from the first step to the end of the trace.
    torch's own schedule is not used: on CUDA it crashed when a run ended while it warmed up, seen once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    on_cuda = torch.cuda.is_available()
    profiler = profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_cuda)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done == WAIT:
            profiler.start()
        elif done == WAIT + TRACED:
            write()

    def write() -> None:
        profiler.stop()
        profiler.export_chrome_trace(str(folder / "trace.json"))
        logger.info("trace of %d steps: %s", done - WAIT, folder / "trace.json")
        if on_cuda:
            torch.cuda.memory._dump_snapshot(str(folder / "memory.pickle"))  # type: ignore[no-untyped-call]

    if on_cuda:
        torch.cuda.memory._record_memory_history()
    try:
        yield advance
    finally:
        if WAIT <= done < WAIT + TRACED:
            write()
        elif done < WAIT:
            logger.warning("no trace: there were %d steps, and it begins after %d; take more", done, WAIT)
        if on_cuda:
            torch.cuda.memory._record_memory_history(enabled=None)
