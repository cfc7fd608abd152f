"""What is measured between two reports: sums that stay on the device until someone asks."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ddlm.diffusion.noise import Noise
from ddlm.training.distributed import Ranks
from ddlm.training.step import BUCKETS, Part
from ddlm.transfer import sent

Metrics = dict[str, float]
SUMS = ("steps", "truncated", "objective", "bound_nats", "text_tokens", "masked", "hits", "positions")


@dataclass
class Meter:
    """Sums over steps. Part of the training state, so that a resumed run reports what an uninterrupted one does."""

    sums: Float[Tensor, " sums"]

    @classmethod
    def empty(cls, device: torch.device) -> "Meter":
        return cls(torch.zeros(len(SUMS) + 2 * BUCKETS, dtype=torch.float64, device=device))

    def add(self, values: Float[Tensor, " sums"], is_finite: Bool[Tensor, ""]) -> None:
        """A step that was skipped leaves no trace."""
        self.sums += torch.where(is_finite, values, 0.0)

    def take(self, ranks: Ranks, objective: str, tokens_per_byte: float) -> Metrics:
        """The means over all ranks since the last call, by metric name. Waits for the device."""
        sums = ranks.sum(self.sums).tolist()
        self.sums.zero_()
        total = dict(zip(SUMS, sums, strict=False))
        if not total["steps"]:
            return {}
        nll_nats = total["bound_nats"] / total["text_tokens"]
        metrics = {
            "train/nll_nats": nll_nats,
            "train/bits_per_byte": nll_nats * tokens_per_byte / math.log(2),
            f"train/{objective}": total["objective"] / total["steps"],
            "train/accuracy": total["hits"] / total["masked"],
            "train/random_truncation_applied": total["truncated"] / total["steps"],
        }
        if total["masked"] == total["positions"]:  # the twin predicts all of them and masks none
            return metrics
        nats, count = sums[len(SUMS) : -BUCKETS], sums[-BUCKETS:]
        by_rate = {f"{(i + 1) / BUCKETS:.1f}": nats[i] / count[i] for i in range(BUCKETS) if count[i]}
        metrics |= {f"train/nats_at_mask_rate/{rate}": value for rate, value in by_rate.items()}
        return metrics | {"train/mask_rate": total["masked"] / total["positions"]}


def of_step(noise: Noise, ranks: Ranks, device: torch.device) -> Float[Tensor, " sums"]:
    """What a step adds, whatever its parts; the first rank speaks for all."""
    sums = torch.zeros(len(SUMS) + 2 * BUCKETS, dtype=torch.float64)
    sums[SUMS.index("steps")], sums[SUMS.index("truncated")] = ranks.is_first, ranks.is_first and noise.truncated
    return sent(sums, device)


def measured(part: Part, loss: Tensor, nats: Tensor, is_hit: Tensor, end_id: int) -> Float[Tensor, " sums"]:
    """What one part adds."""
    constant = partial(torch.full, (), dtype=torch.float64, device=nats.device)
    by_bucket = torch.zeros(2 * BUCKETS, dtype=torch.float64, device=nats.device)
    by_bucket.index_add_(0, part.bucket, nats.double())
    by_bucket.index_add_(0, part.bucket + BUCKETS, torch.ones_like(nats, dtype=torch.float64))
    values = (
        loss.detach().double(),
        (nats * part.bound_weight).sum(dtype=torch.float64),
        text_tokens(part.x_0, end_id).double(),
        constant(len(nats)),
        is_hit.sum(dtype=torch.float64),
        constant(part.x_0.numel()),
    )
    return torch.cat([torch.zeros(2, dtype=torch.float64, device=nats.device), torch.stack(values), by_bucket])


def text_tokens(x_0: Tensor, end_id: int) -> Tensor:
    """Tokens of text, each story's end token with them but not the tail behind it: what nats a token are divided by."""
    is_end = x_0 == end_id
    is_tail = is_end[:, 1:] & is_end[:, :-1]
    return x_0.numel() - is_tail.sum()
