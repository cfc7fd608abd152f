"""Where the time and the memory of a step go: named regions for nsys, a trace for a browser, a memory snapshot."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

logger = logging.getLogger(__name__)

WAIT, WARM_UP, TRACED = 3, 1, 3
"""Steps before the trace, and in it."""


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
    """
    folder.mkdir(parents=True, exist_ok=True)
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.memory._record_memory_history()

    def write(profiler: profile) -> None:
        profiler.export_chrome_trace(str(folder / "trace.json"))
        logger.info("trace of %d steps: %s", TRACED, folder / "trace.json")
        if on_cuda:
            torch.cuda.memory._dump_snapshot(str(folder / "memory.pickle"))  # type: ignore[no-untyped-call]
            torch.cuda.memory._record_memory_history(enabled=None)

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_cuda
    steps = schedule(wait=WAIT, warmup=WARM_UP, active=TRACED, repeat=1)
    with profile(activities=activities, schedule=steps, on_trace_ready=write) as profiler:
        yield profiler.step
