"""Going through rows: in batches, behind a bar, by one process or by several that share them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, distributed

from ddlm.data.progress import shown

Score = Callable[[np.ndarray], np.ndarray]
"""From row numbers to float64 (rows, …): what is measured of each."""


@dataclass(frozen=True)
class Sweep:
    """How rows are gone through.

    index, count: which of how many processes this is; each takes every `count`-th row. label: of the bar; none if
    empty.
    """

    batch_size: int = 32
    device: torch.device | str = "cpu"
    index: int = 0
    count: int = 1
    label: str = ""

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def called(self, label: str) -> "Sweep":
        """The same with another label of its bar, if it has one."""
        return replace(self, label=label) if self.label else self

    @torch.no_grad()
    def over(self, score: Score, rows: int) -> np.ndarray:
        """What `score` says of all rows, in their order. With several processes each gets everyone's."""
        own = np.arange(self.index, rows, self.count)
        parts = [own[start : start + self.batch_size] for start in range(0, len(own), self.batch_size)]
        found = [score(part) for part in (shown(parts, self.label, len(parts)) if self.label else parts)]
        values = np.concatenate(found) if found else np.empty((0, *score(np.arange(1)).shape[1:]))
        if self.count == 1:
            return values
        whole = torch.zeros(rows, *values.shape[1:], dtype=torch.float64)
        whole[own] = torch.from_numpy(values)
        distributed.all_reduce(whole)
        return whole.numpy()

    def tensor(self, values: np.ndarray) -> Tensor:
        """On the device; token ids become int64, masks stay bool."""
        return torch.from_numpy(values if values.dtype == np.bool_ else values.astype(np.int64)).to(self.device)


@contextmanager
def processes() -> Iterator[tuple[int, int]]:
    """Join the others that `torchrun` started, if it did. Yields index and count."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, 1
        return
    distributed.init_process_group("gloo")
    try:
        yield distributed.get_rank(), distributed.get_world_size()
    finally:
        distributed.destroy_process_group()
