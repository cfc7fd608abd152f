"""The part of a step that ranks and devices run alike: noised rows in, a loss and what it is made of out."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddlm.diffusion import ObjectiveConfig
from ddlm.diffusion.noise import Noise
from ddlm.diffusion.objective import bound_weights, linear_cross_entropy, token_weights
from ddlm.model.transformer import Denoiser
from ddlm.transfer import sent

BUCKETS = 10
"""Equal parts of the mask rate, over which the loss is reported apart."""


@dataclass(frozen=True)
class Part:
    """Rows of one rank that go through the network at once: one part of the accumulation.

    is_causal: whether the network reads from left to right here, and nothing is masked.
    place: where in the flattened rows the masked positions are; known without asking the device how many there are.
    weight, bound_weight, bucket: of each masked position's row.
    """

    x_0: Int[Tensor, "b l"]
    is_masked: Bool[Tensor, "b l"]
    is_causal: bool
    place: Int[Tensor, " n"]
    weight: Float[Tensor, " n"]
    bound_weight: Float[Tensor, " n"]
    bucket: Int[Tensor, " n"]


def parts_of(
    x_0: Int[Tensor, "b seq_len"], noise: Noise, objective: ObjectiveConfig, rows: slice, accumulation: int
) -> list[Part]:
    """A rank's rows and their noise, cut into parts. `rows` are the rank's rows in the global batch."""
    x_0 = x_0[:, : noise.length]
    if objective.complementary:
        x_0, rows = x_0.repeat_interleave(2, dim=0), slice(2 * rows.start, 2 * rows.stop)
    weight = token_weights(objective, noise.count, noise.length)[rows]
    bound_weight = bound_weights(objective, noise.count, noise.length)[rows]
    count = noise.count[rows]
    cut = [values.chunk(accumulation) for values in (x_0, noise.is_masked, count, weight, bound_weight)]
    return [_part(objective.is_autoregressive, *values) for values in zip(*cut, strict=True)]


def _part(is_causal: bool, x_0: Tensor, is_masked: Tensor, count: Tensor, weight: Tensor, bound_weight: Tensor) -> Part:
    place = is_masked.flatten().byte().argsort(descending=True, stable=True)[: int(count.sum())]
    bucket = (count - 1) * BUCKETS // x_0.shape[1]
    per_row = (sent(values.repeat_interleave(count), x_0.device) for values in (weight, bound_weight, bucket))
    return Part(x_0, is_masked, is_causal, place, *per_row)


class MaskedLoss(nn.Module):
    """The network and the loss as one module, which is what gets wrapped for several ranks."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, part: Part) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted loss, and for every masked position its nats and whether the best guess was right."""
        if part.is_causal:
            stream = self.denoiser.causal_hidden(part.x_0)
        else:
            stream = self.denoiser.hidden(part.x_0.masked_fill(part.is_masked, self.denoiser.vocab_size))
        hidden = stream.flatten(0, 1)[part.place]
        targets = part.x_0.flatten()[part.place]
        soft_cap = self.denoiser.config.logit_soft_cap
        return linear_cross_entropy(hidden, self.denoiser.head_weight, targets, part.weight, soft_cap)
