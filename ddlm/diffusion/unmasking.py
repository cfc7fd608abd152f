"""Unmasking policies: which positions a step opens, and which it masks again.

A policy is a function of a `View`. What it does not ask for is not computed: one that never looks at a logit leaves the
head to the positions that it opens, and a step that opens nothing does not run the network.
"""

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

Denoiser = Callable[[Int[Tensor, "b l"], Bool[Tensor, "b l"]], Float[Tensor, "n v"]]
"""Token ids with masks, and where it is asked for logits: to logits over the vocabulary without the mask, at those
positions only, row by row."""

END_PENALTY = 1000.0
"""Larger than any difference of scores: where ends come last, an end token is opened after everything else."""
LOOP_ON, LOOP_OFF, LOOP_ALPHA = 0.55, 0.05, 0.9
"""ReMDM's loop: between these times nothing but exchange, at this share of open tokens; the source's defaults."""


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
        return torch.tensor(values, dtype=dtype, device=self.ids.device)

    def at_pace(self, score: Float[Tensor, "b l"]) -> Move:
        """Open as many as the grid says, those with the largest scores."""
        return Move(choose(score, self.is_masked, self.tensor(self.count)), self.count)

    def at_least_at_pace(self, score: Float[Tensor, "b l"], count: Int[Tensor, " b"]) -> Move:
        """Open what a rule allows, but one at least, and so many that the steps suffice; at most `most_per_step`."""
        needed = [-(-left // max(1, steps - self.taken)) for left, steps in zip(self.left, self.steps, strict=True)]
        allowed = count.clamp(min=1, max=self.draw.config.most_per_step)
        return Move(choose(score, self.is_masked, torch.maximum(allowed, self.tensor(needed))))


Policy = Callable[[View], Move]


def masked_share(grid: str, progress: float) -> float:
    """What is masked after this share of the steps."""
    return math.cos(math.pi / 2 * progress) if grid == "cosine" and progress < 1 else 1 - progress


def choose(
    score: Float[Tensor, "b l"], is_masked: Bool[Tensor, "b l"], count: Int[Tensor, " b"]
) -> Bool[Tensor, "b l"]:
    """The `count` masked positions with the largest scores in each row; ties go to the lower position."""
    return (ranked(score, is_masked)[1] < count[:, None]) & is_masked


def ranked(score: Float[Tensor, "b l"], is_masked: Bool[Tensor, "b l"]) -> tuple[Tensor, Tensor]:
    """Positions from the largest score to the smallest, those not masked last; and each position's rank."""
    order = score.masked_fill(~is_masked, -math.inf).argsort(dim=1, descending=True, stable=True)
    return order, order.argsort(dim=1)


def random(view: View) -> Move:
    """A random order at the grid's pace: ancestral sampling of the masked process, with the counts of masks fixed to
    their means. Source: Sahoo et al., MDLM, 2024; Shi et al., MD4, 2024.
    """
    return view.at_pace(view.order)


def first_hitting(view: View) -> Move:
    """One token a step in a random order, whatever the number of steps: the process exactly, at the times of its
    events. Source: Zheng et al., 2024; the times themselves matter to no denoiser without a clock.
    """
    count = [min(1, left) for left in view.left]
    return Move(choose(view.order, view.is_masked, view.tensor(count)), count)


def left_to_right(view: View) -> Move:
    """In reading order at the grid's pace."""
    position = torch.arange(view.ids.shape[1], device=view.ids.device, dtype=torch.float64)
    return view.at_pace(-position.expand(view.ids.shape))


def confidence(view: View) -> Move:
    """The most certain position first, by its best token's probability.

    Source: Nie et al., LLaDA, 2025 (low-confidence remasking), with positions chosen before tokens are drawn.
    """
    return view.at_pace(view.score(tokens.log_odds))


def margin(view: View) -> Move:
    """First where the best token is furthest ahead of the next. Source: Kim et al., Train for the worst, 2025."""
    return view.at_pace(view.score(tokens.margin))


def entropy(view: View) -> Move:
    """The lowest entropy first. Source: Ye et al., Dream, 2025."""
    return view.at_pace(view.score(_certainty))


def threshold(view: View) -> Move:
    """All positions whose best token has the probability `threshold`. Source: Wu et al., Fast-dLLM, 2025."""
    score = view.score(tokens.log_odds)
    probability = view.draw.config.threshold or 0.9
    return view.at_least_at_pace(score, (score >= math.log(probability / (1 - probability))).sum(1))


def entropy_bound(view: View) -> Move:
    """The most positions, lowest entropies first, whose entropies but for the largest sum to at most the bound: what
    they could depend on each other. Source: Ben-Hamu et al., Entropy-bounded unmasking, 2025.
    """
    bound = 0.5 if view.draw.config.entropy_bound is None else view.draw.config.entropy_bound
    score = view.score(_certainty)
    ordered = (-score).sort(dim=1).values.clamp(min=0)
    before = ordered.cumsum(1) - ordered
    return view.at_least_at_pace(score, ((before <= bound) & ordered.isfinite()).sum(1))


def _certainty(logits: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    return -tokens.entropy(logits)


def remdm_cap(view: View) -> Move:
    """Ancestral, and each step masks a share of what is written again, at most `remask_share`.

    Source: Wang et al., ReMDM, 2025, for this and the next two.
    """
    alpha_t, alpha_s = _alphas(view)
    return _exchange(view, alpha_t, alpha_s, _most_remasked(alpha_t, alpha_s).clamp(max=_remask_share(view, 0.02)))


def remdm_rescale(view: View) -> Move:
    """The same with the largest share that keeps the process, times `remask_share`."""
    alpha_t, alpha_s = _alphas(view)
    return _exchange(view, alpha_t, alpha_s, _most_remasked(alpha_t, alpha_s) * _remask_share(view, 0.1))


def remdm_loop(view: View) -> Move:
    """The same with a long middle in which as much is masked again as is written."""
    alpha_t, alpha_s = map(_looped, _alphas(view))
    is_loop = (alpha_t == LOOP_ALPHA) & (alpha_s == LOOP_ALPHA)
    share = _most_remasked(alpha_t, alpha_s).clamp(max=_remask_share(view, 0.02)) * is_loop
    return _exchange(view, alpha_t, alpha_s, share)


def _alphas(view: View) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The open share before and after the step."""
    grid = view.draw.config.grid
    moments = [[min(1.0, (view.taken + ahead) / max(1, steps)) for steps in view.steps] for ahead in (0, 1)]
    before, after = ([1 - masked_share(grid, moment) for moment in row] for row in moments)
    return view.tensor(before), view.tensor(after)


def _looped(alpha: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The open share at time 1 - alpha of ReMDM's loop."""
    t = 1 - alpha
    rising, ending = LOOP_ALPHA * (1 - t) / (1 - LOOP_ON), 1 - (1 - LOOP_ALPHA) * t / LOOP_OFF
    return torch.where(t > LOOP_ON, rising, torch.where(t < LOOP_OFF, ending, LOOP_ALPHA))


def _most_remasked(alpha_t: Float[Tensor, " b"], alpha_s: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    return ((1 - alpha_s) / alpha_t).clamp(max=1)


def _remask_share(view: View, default: float) -> float:
    share = view.draw.config.remask_share
    return default if share is None else share


def _exchange(
    view: View, alpha_t: Float[Tensor, " b"], alpha_s: Float[Tensor, " b"], share: Float[Tensor, " b"]
) -> Move:
    """Open and mask again with the probabilities under which a share alpha_s is open afterwards."""
    to_open = ((alpha_s - (1 - share) * alpha_t) / (1 - alpha_t)).nan_to_num(nan=1.0)
    opened = view.is_masked & (view.order < to_open[:, None])
    return Move(opened, remasked=view.is_free & ~view.is_masked & (view.chance < share[:, None]))


def revise(view: View) -> Move:
    """Draw every position anew, also written ones, and keep the likeliest draws, as many as the grid says.

    Source: seed project S0, after Chang et al., MaskGIT, 2022; it takes likelihoods after temperature and filters.
    """
    sight = view.sight
    likelihood = view.table(sight, tokens.probability(sight.logits, view.tokens_at(sight)))
    keep = view.is_free.sum(1) - view.tensor(view.left) + view.tensor(view.count)
    kept = choose(likelihood, view.is_free, keep)
    return Move(kept, remasked=view.is_free & ~kept)


POLICIES: dict[str, Policy] = {
    "random": random,
    "first_hitting": first_hitting,
    "left_to_right": left_to_right,
    "confidence": confidence,
    "margin": margin,
    "entropy": entropy,
    "threshold": threshold,
    "entropy_bound": entropy_bound,
    "remdm_cap": remdm_cap,
    "remdm_rescale": remdm_rescale,
    "remdm_loop": remdm_loop,
    "revise": revise,
}

REWRITING = {"remdm_cap", "remdm_rescale", "remdm_loop", "revise"}
"""Policies that may mask again what is written: they take all their steps."""
