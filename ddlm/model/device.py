"""Which device and which precision."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from ddlm.config import UserError

COMPILE_FLOPS = {"cpu": 2e13, "cuda": 2e15}
"""From this size on a piece of work gains more than the seconds that compiling takes. Measured with bfloat16 and 17M
parameters: on 2 cores 9 s once, and 0.82 s instead of 1.04 s for the blocks of a training step; on an H100 12 s."""


Precision = Literal["float32", "bfloat16"]


def lacks_compiler() -> str:
    """Why `torch.compile` can't work on a CPU, and what to do; empty where it can."""
    if " " in str(Path(torch.__file__).parent):
        return "torch hands its own folder to the compiler, and its path has a space; install it elsewhere"
    found = any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++"))))
    return "" if found else "no C++ compiler (g++ or clang++) found; install one"


def pick_device(wanted: str) -> torch.device:
    """Raises: UserError when CUDA is asked for and there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: torch sees no CUDA device here; set training.device to cpu or auto")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def pick_inference_device(wanted: str) -> torch.device:
    """Where text is written and judged: `auto` takes an Apple GPU too, on which training is not tried.

    Raises: UserError as above.
    """
    device = pick_device(wanted)
    takes_mps = wanted == "auto" and device.type == "cpu" and torch.backends.mps.is_available()
    return torch.device("mps") if takes_mps else device


def pick_precision(wanted: str, device: torch.device) -> Precision:
    """`auto` takes bfloat16 where the hardware multiplies it, and on a CPU only where that is faster than float32."""
    if wanted != "auto":
        return "bfloat16" if wanted == "bfloat16" else "float32"
    if not has_bfloat16(device):
        return "float32"
    is_slower = device.type == "cpu" and product_seconds(torch.bfloat16) >= product_seconds(torch.float32)
    return "float32" if is_slower else "bfloat16"


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@cache
def product_seconds(dtype: torch.dtype) -> float:
    """What a matrix product of a small model's size takes one core at best; about 10 ms, once a process.

    That a CPU has bfloat16 products says little: with AVX512 an AMD EPYC multiplied 3.4 times as fast as in float32
    (403 and 120 GFLOP/s on 2 cores), an Intel Xeon whose AMX is hidden from its guest 0.6 times (156 and 250).
    By the clock of this thread, which stands still while others have the core: a busy machine answers as a quiet one.
    """
    left, right = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    seconds = []
    with threads(1):
        for _ in range(8):
            started = time.thread_time()
            torch.mm(left, right)
            seconds.append(time.thread_time() - started)
    return min(seconds)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many of the CPU's cores for torch, inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
