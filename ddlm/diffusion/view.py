"""What a policy sees before a step, and what it may do."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddlm import draws
from ddlm.diffusion import tokens
from ddlm.diffusion.tokens import Draw, Measure
from ddlm.transfer import sent

Denoiser = Callable[[Int[Tensor, "b l"], Bool[Tensor, "b l"]], Float[Tensor, "n v"]]
"""Token ids with masks, and where it is asked for logits: to logits over the vocabulary without the mask, at those
positions only, row by row."""

END_PENALTY = 1000.0
"""Larger than any difference of scores: where ends come last, an end token is opened after everything else."""


def everywhere(network: Callable[[Int[Tensor, "b l"]], Float[Tensor, "b l v"]]) -> Denoiser:
    """A denoiser from a network that knows only how to give all logits."""
    return lambda ids, wanted: network(ids)[wanted]


def places(wanted: Bool[Tensor, "*axes"], count: int | None) -> Int[Tensor, " n"]:
    """Indices into the flattened table; with the count known beforehand, nothing waits for the device."""
    flat = wanted.flatten()
    return flat.nonzero()[:, 0] if count is None else torch.nonzero_static(flat, size=count)[:, 0]


@dataclass(frozen=True, eq=False)
class Sight:
    """Logits of some positions. place: row · l + position."""

    place: Int[Tensor, " n"]
    logits: Float[Tensor, "n v"]

    def at(self, wanted: Bool[Tensor, "b l"], count: int | None = None) -> "Sight":
        """What is seen of the wanted positions, all of which are in sight."""
        index = places(wanted.flatten()[self.place], count)
        return self if len(index) == len(self.place) else Sight(self.place[index], self.logits[index])


@dataclass(frozen=True, eq=False)
class Move:
    """What a step does. count: how many it opens in each row, where that is known without asking the device."""

    opened: Bool[Tensor, "b l"]
    count: Sequence[int] | None = None
    remasked: Bool[Tensor, "b l"] | None = None


@dataclass(frozen=True, eq=False)
class View:
    """What a policy may look at before a step.

    is_free: positions of the window that were masked at first, whatever is there now. is_masked: those still masked.
    step: how many steps each row has taken. left, steps: of each row, the masks that are left and the steps that the
    window may take. taken: those it took. count: how many masks the grid would open. written: the share of the row
    that is written, over the whole canvas. rewrites: whether written positions are in question too. seen: what the
    network was asked for.
    """

    denoiser: Denoiser
    ids: Int[Tensor, "b l"]
    is_free: Bool[Tensor, "b l"]
    is_masked: Bool[Tensor, "b l"]
    draw: Draw
    step: Int[Tensor, " b"]
    left: Sequence[int]
    taken: int
    steps: Sequence[int]
    count: Sequence[int]
    written: Sequence[float]
    rewrites: bool = False
    seen: list[Sight] = field(default_factory=list)

    @property
    def sight(self) -> Sight:
        """Of every position in question."""
        if not self.seen:
            self.look(*((self.is_free, None) if self.rewrites else (self.is_masked, sum(self.left))))
        return self.seen[-1]

    def look(self, wanted: Bool[Tensor, "b l"], count: int | None = None) -> Sight:
        """Run the network. Ids that can't come out have no weight in anything that follows."""
        sight = Sight(places(wanted, count), self.denoiser(self.ids, wanted))
        self.draw.forbid(sight.logits, sight.place)
        self.seen.append(sight)
        return sight

    def tokens_at(self, sight: Sight) -> Int[Tensor, " n"]:
        """A token for each position: asked again, the same."""
        length, config = self.ids.shape[1], self.draw.config
        row, position = sight.place // length, sight.place % length
        _, high, low, _ = self.draw.words(self.step, row, position)
        logits = sight.logits
        if config.repetition_penalty > 1:
            used = torch.zeros(len(self.ids), logits.shape[1] + 1, dtype=torch.bool, device=logits.device)
            logits = tokens.penalise(logits, used.scatter_(1, self.ids, True)[row, :-1], config.repetition_penalty)
        temperature = tokens.temperature_at(config, self.tensor(self.written))[row]
        return tokens.draw_tokens(logits, draws.pair_to_unit(high, low), temperature, config)

    def score(self, measure: Measure) -> Float[Tensor, "b l"]:
        """A measure of what the network says at each masked position."""
        values = tokens.in_chunks(measure, self.sight.logits)
        if self.draw.config.ends == "last":
            values = values - END_PENALTY * tokens.wants(self.sight.logits, self.draw.end_id)
        return self.table(self.sight, values, -math.inf)

    def table(self, sight: Sight, values: Float[Tensor, " n"], elsewhere: float = 0.0) -> Float[Tensor, "b l"]:
        """Values of what is in sight, at their places."""
        table = values.new_full(self.ids.shape, elsewhere)
        table.view(-1)[sight.place] = values
        return table

    @cached_property
    def words(self) -> list[Tensor]:
        """The four words of every position."""
        rows, length = self.ids.shape
        row = torch.arange(rows, device=self.ids.device)[:, None].expand(rows, length)
        return self.draw.words(self.step, row, torch.arange(length, device=row.device).expand(rows, length))

    @cached_property
    def order(self) -> Float[Tensor, "b l"]:
        """A uniform number for each position, to order them by."""
        return draws.to_unit(self.words[0])  # type: ignore[no-any-return]

    @property
    def chance(self) -> Float[Tensor, "b l"]:
        """Another one."""
        return draws.to_unit(self.words[3])  # type: ignore[no-any-return]

    def tensor(self, values: Sequence[int] | Sequence[float]) -> Tensor:
        """One number a row; broken ones in float64."""
        dtype = torch.float64 if values and isinstance(values[0], float) else torch.int64
        return sent(torch.tensor(values, dtype=dtype), self.ids.device)

    def at_pace(self, score: Float[Tensor, "b l"]) -> Move:
        """Open as many as the grid says, those with the largest scores."""
        return Move(choose(score, self.is_masked, self.tensor(self.count)), self.count)

    def at_least_at_pace(self, score: Float[Tensor, "b l"], count: Int[Tensor, " b"]) -> Move:
        """Open what a rule allows, at most `most_per_step`, but no fewer than the grid would: steps must suffice."""
        most = self.draw.config.most_per_step
        allowed = count if most is None else count.clamp(max=most)
        return Move(choose(score, self.is_masked, torch.maximum(allowed, self.tensor(self.count))))


def choose(
    score: Float[Tensor, "b l"], is_masked: Bool[Tensor, "b l"], count: Int[Tensor, " b"]
) -> Bool[Tensor, "b l"]:
    """The `count` masked positions with the largest scores in each row; ties go to the lower position."""
    order = score.masked_fill(~is_masked, -math.inf).argsort(dim=1, descending=True, stable=True)
    return (order.argsort(dim=1) < count[:, None]) & is_masked
