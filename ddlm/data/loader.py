"""Batches as a pure function of (seed, step): no iterator state to save, the same rows whatever the world size.

Row number i of the whole run is row `i % num_rows` of epoch `i // num_rows`, in that epoch's own order; the global
batch of a step is the next `batch_size` of them, and a rank takes its slice.
"""

import tempfile
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ddlm.config import UserError
from ddlm.data.shards import iterate_rows, read_manifest
from ddlm.draws import WORD, philox

if TYPE_CHECKING:
    import torch

FEISTEL_ROUNDS = 6
ORDER_DRAWS = 0x0DE5
"""The last counter word of these draws, so that no other use of the seed shares them."""
ROWS_AT_A_TIME = 4096
BATCHES_AHEAD = 3


class TokenLoader:
    """Shuffled rows of one split for one rank.

    batch_size: rows of the global batch. scratch: a folder for the decoded rows: a nameless file, so that a killed
    process leaves nothing behind; the kernel keeps as much of it in memory as there is room.
    Raises: UserError when the ranks can't share the batch evenly.
    """

    def __init__(
        self, folder: Path, split: str, batch_size: int, seed: int, scratch: Path, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size % world_size:
            raise UserError(f"batch of {batch_size} rows: {world_size} processes can't share it evenly; change either")
        self.batch_size = batch_size
        self.seed = seed
        self._share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self._rows = _decode(folder, split, scratch)
        self.num_rows, self.seq_len = self._rows.shape
        self._ordered: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def batch(self, step: int) -> NDArray[np.int64]:
        """This rank's rows of the global batch of a step, (rows, seq_len)."""
        start = step * self.batch_size
        numbers = self._row_numbers(start + self._share.start, start + self._share.stop)
        return self._rows[numbers].astype(np.int64)

    def batches(self, start_step: int, device: "str | torch.device") -> Generator["torch.Tensor", None, None]:
        """int64 batches from a step on, without end, prepared ahead in a thread and for CUDA in pinned memory."""
        import torch

        on_gpu = torch.device(device).type == "cuda"

        def prepare(step: int) -> torch.Tensor:
            rows = torch.from_numpy(self.batch(step))
            return rows.pin_memory() if on_gpu else rows

        with ThreadPoolExecutor(1) as pool:
            ahead = deque(pool.submit(prepare, start_step + offset) for offset in range(BATCHES_AHEAD))
            for step in count(start_step + BATCHES_AHEAD):
                rows = ahead.popleft().result()
                ahead.append(pool.submit(prepare, step))
                yield rows.to(device, non_blocking=True)

    def _row_numbers(self, start: int, stop: int) -> NDArray[np.int64]:
        """Rows number start … stop of the run, ordered by the thousand: each numpy call costs microseconds."""
        parts = []
        while start < stop:
            block, offset = divmod(start, ROWS_AT_A_TIME)
            if self._ordered[0] != block:
                numbers = np.arange(block * ROWS_AT_A_TIME, (block + 1) * ROWS_AT_A_TIME, dtype=np.int64)
                self._ordered = (block, shuffled(numbers, self.num_rows, self.seed))
            parts.append(self._ordered[1][offset : offset + stop - start])
            start += len(parts[-1])
        return np.concatenate(parts)


def shuffled(numbers: NDArray[np.int64], num_rows: int, seed: int) -> NDArray[np.int64]:
    """The row at each number of an endless run of epochs, every epoch a permutation of its own, in constant memory.

    numbers: ascending. A Feistel cipher permutes the next power of four; what falls outside `num_rows` is
    encrypted again until it falls inside ("cycle walking"), which keeps it a permutation.
    Source: Black and Rogaway, "Ciphers with arbitrary finite domains" (CT-RSA 2002).
    """
    epochs, places = np.divmod(numbers, num_rows)
    epochs -= (first := int(epochs[0]))
    keys = _epoch_keys(first, int(epochs[-1]) + 1, seed)[:, epochs]
    half_bits = max(1, -(-(num_rows - 1).bit_length() // 2))
    rows = _encrypt(places.astype(np.uint64), keys, half_bits)
    while (outside := np.flatnonzero(rows >= num_rows)).size:
        rows[outside] = _encrypt(rows[outside], keys[:, outside], half_bits)
    return rows.astype(np.int64)


def _epoch_keys(first: int, num_epochs: int, seed: int) -> NDArray[np.uint64]:
    """Round keys of some epochs in a row, (rounds, epochs)."""
    rounds = np.arange(FEISTEL_ROUNDS, dtype=np.int64)[:, None]
    epochs = np.arange(first, first + num_epochs, dtype=np.int64)
    zero = np.zeros_like(epochs)
    words = philox((epochs, rounds, zero, zero + ORDER_DRAWS), (seed & WORD, (seed >> 32) & WORD))
    keys: NDArray[np.int64] = words[0] << 32 | words[1]
    return keys.astype(np.uint64)


def _encrypt(values: NDArray[np.uint64], keys: NDArray[np.uint64], half_bits: int) -> NDArray[np.uint64]:
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        mixed = (right ^ key) * np.uint64(0x9E3779B97F4A7C15)  # wraps around; the high half depends on every bit
        left, right = right, left ^ ((mixed ^ mixed >> np.uint64(29)) >> np.uint64(32) & mask)
    return left << bits | right


def _decode(folder: Path, split: str, scratch: Path) -> NDArray[Any]:
    manifest = read_manifest(folder)
    shape = (manifest["splits"][split]["rows"], manifest["seq_len"])
    dtype = np.dtype(manifest["dtype"])
    with tempfile.TemporaryFile(dir=scratch) as file:
        for rows in iterate_rows(folder, split):
            file.write(rows.tokens.astype(dtype).tobytes())  # unlike tofile it says when the disk is full
        file.flush()
        return np.memmap(file, dtype=dtype, mode="r", shape=shape)
