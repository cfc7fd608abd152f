"""How fast this machine multiplies matrices: what a training step is measured against."""

import time
from collections.abc import Callable
from functools import cache

import torch


@cache
def matrix_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """The best of several square products: what the machine can do at most. Measured once a process."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: left @ right, device) for _ in range(16))


def timed(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of an action, the device's queue included."""
    started = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
