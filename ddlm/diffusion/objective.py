"""The training objective: cross-entropy at masked positions, weighted."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class MaskedNats:
    """-log p of the true token at every masked position, and which row and how crowded a row it is in.

    nats: one value a masked position. row: its row. seq_len: positions in a row. masked: masked positions of each row.
    """

    nats: Float[Tensor, " n"]
    row: Int[Tensor, " n"]
    masked: Int[Tensor, " b"]
    seq_len: int

    def row_bound(self) -> Float[Tensor, " b"]:
        """An unbiased estimate of each row's negative ELBO in nats: seq_len / masked · Σ -log p.

        Source: Ou et al., RADD, 2024, the any-order form; the schedule drops out.
        """
        return self.seq_len * self.row_mean()

    def row_mean(self) -> Float[Tensor, " b"]:
        """Mean nats over each row's masked positions."""
        total = torch.zeros(len(self.masked), device=self.nats.device).index_add(0, self.row, self.nats)
        return total / self.masked


def masked_nats(logits: Float[Tensor, "n v"], x_0: Int[Tensor, "b l"], is_masked: Bool[Tensor, "b l"]) -> MaskedNats:
    """Logits of the masked positions only, in row-major order, against the clean tokens there."""
    nats = F.cross_entropy(logits, x_0[is_masked], reduction="none")
    return MaskedNats(nats, is_masked.nonzero()[:, 0], is_masked.sum(1), x_0.shape[1])


def bound(values: MaskedNats) -> Float[Tensor, ""]:
    """The negative ELBO a position, averaged over rows: unbiased."""
    return values.row_mean().mean()


def plain(values: MaskedNats) -> Float[Tensor, ""]:
    """The mean over all masked positions of the batch: no bound, since crowded rows count for more."""
    return values.nats.mean()


WEIGHTINGS: dict[str, Callable[[MaskedNats], Tensor]] = {"bound": bound, "plain": plain}
