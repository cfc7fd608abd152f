"""The real text that graphs are compared and measured on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddlm.data.packing import Rows

CALIBRATION_ROWS = 16


@dataclass(frozen=True, eq=False)
class Text:
    """rows: measured on. story: of each row the number of its story; each row is one when None. calibration: tokens of
    other rows, from which the ranges of activations are taken."""

    rows: Rows
    calibration: NDArray[np.int32]
    story: NDArray[np.int64] | None = None

    @classmethod
    def divided(cls, rows: Rows, story: NDArray[np.int64], limit: int) -> "Text":
        """One text for both, at most `limit` rows of it to measure on; calibration gets up to a third."""
        apart = min(CALIBRATION_ROWS, len(rows) // 3)
        measured = min(limit, len(rows) - apart)
        return cls(rows[:measured], rows.tokens[measured:][:apart], story[:measured])

    @property
    def is_enough(self) -> bool:
        """Whether anything can be measured on it: an interval needs two rows."""
        return len(self.rows) > 1 and len(self.calibration) > 0


def random_rows(shape: tuple[int, int], vocab_size: int, seed: int) -> NDArray[np.int32]:
    """Where there is no text."""
    return np.random.default_rng(seed).integers(0, vocab_size, shape, dtype=np.int32)
