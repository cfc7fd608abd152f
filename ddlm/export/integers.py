"""Weights as integers and scales: the nearest that there are, symmetric around 0."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
"""Inputs that share a scale in int4."""

Array = NDArray[Any]


def per_output(weight: Array) -> tuple[NDArray[np.int8], Array]:
    """int8[inputs, outputs] and, in the weight's own precision, scales [outputs]."""
    integers, scale = _nearest(weight, len(weight), 127)
    return integers, scale[0]


def per_block(weight: Array) -> tuple[NDArray[np.int8], Array]:
    """Integers in -7 … 7 [inputs, outputs] and scales [inputs / 32, outputs]."""
    return _nearest(weight, BLOCK, 7)


def _nearest(weight: Array, block: int, largest: int) -> tuple[NDArray[np.int8], Array]:
    """The scale is rounded to the weight's precision first, and the integers are chosen for what it is then."""
    blocks = weight.astype(np.float32).reshape(-1, block, weight.shape[1])
    scale = scale_of(np.abs(blocks).max(axis=1), largest, weight.dtype)
    integers = np.rint(blocks / scale.astype(np.float32)[:, None]).clip(-largest, largest)
    return integers.astype(np.int8).reshape(weight.shape), scale


def scale_of(range: Array, largest: int, dtype: Any) -> Array:
    """What one step of an integer stands for, so that `largest` steps reach the range. Never 0 and never subnormal."""
    least = np.finfo(dtype).smallest_normal
    scale: Array = np.maximum(range.astype(np.float32) / largest, np.float32(least)).astype(dtype)
    return scale


def two_in_a_byte(integers: NDArray[np.int8]) -> bytes:
    """As ONNX stores int4: the first of each pair in the low half."""
    flat = integers.ravel().view(np.uint8) & 15
    return bytes(flat[::2] | flat[1::2] << 4)
