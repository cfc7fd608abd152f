"""The second half of a step graph: from logits to the canvas after the step. `runtime.step` says what goes in.

It repeats the library's sampler in float32, since TensorRT has no float64, and in operators that TensorRT 10.3 reads.
Sums of weights leave the best token out instead of taking 1 away, odds stand in for probabilities near 1, and running
sums are made pair by pair: so the roundings stay near those of logits that two runtimes compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddlm.export.runtime import step
from ddlm.export.runtime.tokens import COLDEST, LEAST_ODDS
from ddlm.tokenizer import Tokenizer

BARRED = -1e30
"""Added to the logit of a token that can't come out: an infinity times a setting that is 0 would be no number."""
LEAST_LEAD, NO_LEAD = 1e-10, 1e30
"""Two logits that differ at all are further apart; the odds against a best token that has no lead."""
LANES = 16
"""Rows of a multiple of so many logits begin alike in memory, and only then do equal rows have equal sums."""
HOTTEST = 80.0
"""exp of more is infinite in float32."""


@dataclass(frozen=True)
class Vocabulary:
    """What a choice must know of the ids. never: those that no text contains; stop_ids: those that end one.
    word_starts: for each id, whether it begins a word."""

    end_id: int
    mask_id: int
    never: tuple[int, ...]
    stop_ids: tuple[int, ...]
    word_starts: tuple[bool, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Vocabulary":
        return cls(
            tokenizer.end_id, tokenizer.mask_id, tuple(tokenizer.unwritable_ids), tuple(tokenizer.stop_ids),
            tuple(tokenizer.word_starts()),
        )  # fmt: skip

    @property
    def size(self) -> int:
        return len(self.word_starts)


class Choice(nn.Module):
    """Which positions are opened, and their tokens, for one row. Only logits of what may be opened are sorted."""

    barred: Tensor

    def __init__(self, vocabulary: Vocabulary, limits: step.Limits) -> None:
        super().__init__()
        self.end_id, self.mask_id, self.limits = vocabulary.end_id, vocabulary.mask_id, limits
        self.padding = -vocabulary.size % LANES
        within = [number for number, begins in enumerate(vocabulary.word_starts) if not begins]
        barred = (vocabulary.never, [vocabulary.end_id], vocabulary.stop_ids, within)
        sets = [_members(ids, vocabulary.size + self.padding) for ids in barred]
        self.register_buffer("barred", torch.stack(sets).float() * BARRED)

    def forward(
        self,
        logits: Float[Tensor, "1 l v"],
        ids: Int[Tensor, "1 l"],
        places: Int[Tensor, "3 l"],
        order: Float[Tensor, "1 l"],
        uniform: Float[Tensor, "1 l"],
        pace: Int[Tensor, " counts"],
        temperature: Float[Tensor, " counts"],
        settings: Float[Tensor, " settings"],
    ) -> Int[Tensor, "1 l"]:
        """The canvas after the step."""
        setting = dict(zip(step.SETTINGS, settings.unbind(), strict=True))
        is_free, is_inside, starts_word = (row[None] > 0 for row in places.unbind())
        end_logit, logits = self._open_to_all(logits, starts_word[0], setting)
        best, best_id, second, others = _best(logits)

        is_masked = is_free & (ids == self.mask_id)
        over = _is_over(end_logit - best, others, is_masked & is_inside, setting["end"])
        ids = torch.where(over & is_masked, self.end_id, ids)
        is_masked = is_masked & ~over
        in_question = is_masked & is_inside

        doubt = _doubt(setting["policy"], others, best - second, order)
        is_late = (end_logit >= best) & (setting["ends_last"] > 0) & (setting["policy"] != step.ORDER)
        allowed = torch.minimum(_count(in_question & ~is_late & (doubt <= setting["limit"])), setting["most"])
        count = torch.maximum(allowed, _at(pace, _count(in_question)).float())
        rank = torch.where(in_question, _rank(doubt, is_late, in_question), float(ids.shape[-1]))
        opened = in_question & (rank < count)

        heat = _at(temperature, _count(is_masked))
        place = torch.topk(-rank, self.limits.most_opened).indices[0]
        drawn = self._drawn(logits.index_select(1, place), uniform.index_select(1, place), heat, setting)
        token = torch.where(heat > 0, _spread(drawn, place, ids.shape[-1]), best_id)
        return self._closed(torch.where(opened, token.int(), ids), is_free, setting["closes"])

    def _open_to_all(
        self, logits: Float[Tensor, "1 l v"], starts_word: Tensor, setting: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "1 l"], Float[Tensor, "1 l width"]]:
        """The end token's logits, and all logits, of what can come out; the end may be barred from the latter alone."""
        never, end, stops, within = self.barred
        anywhere = never + setting["bars_stops"] * stops
        bars = torch.stack([anywhere, anywhere + within]).index_select(0, starts_word.long())
        end_logit = logits[..., self.end_id] + bars[:, self.end_id]
        if self.padding:
            logits = F.pad(logits, (0, self.padding), value=8 * BARRED)
        return end_logit, logits + (bars + setting["bars_end"] * end)

    def _drawn(
        self, logits: Float[Tensor, "1 n v"], uniform: Float[Tensor, "1 n"], heat: Tensor, setting: dict[str, Tensor]
    ) -> Float[Tensor, "1 n"]:
        """A token a position: inverts the cumulative distribution of what the filters leave, in the order of ids."""
        likeliest, token = logits.topk(self.limits.candidates)
        weight = torch.exp((likeliest - likeliest[..., :1]) / heat.clamp(min=COLDEST))
        weight = _kept(weight, setting["top_k"], setting["top_p"])
        minus_id, place = torch.topk(-token.float(), self.limits.candidates)
        reached = _running_sum(weight.gather(-1, place))
        found = (reached < uniform[..., None] * reached[..., -1:]).float().sum(-1, keepdim=True)
        return -minus_id.gather(-1, found.clamp(max=self.limits.candidates - 1).long())[..., 0]

    def _closed(self, ids: Int[Tensor, "1 l"], is_free: Tensor, closes: Tensor) -> Int[Tensor, "1 l"]:
        """Behind an end token before the first mask the text is over: end tokens fill the row."""
        is_masked = is_free & (ids == self.mask_id)
        is_over = (_first(is_free & (ids == self.end_id)) < _first(is_masked)) & (closes > 0)
        return torch.where(is_masked & is_over, self.end_id, ids)


def _members(ids: Sequence[int], width: int) -> Tensor:
    return torch.isin(torch.arange(width), torch.tensor(ids, dtype=torch.int64))


def _count(flags: Tensor) -> Float[Tensor, " 1"]:
    return flags.float().sum(-1)


def _at(table: Tensor, index: Float[Tensor, " 1"]) -> Tensor:
    return table.index_select(0, index.long())


def _positions(length: int) -> Float[Tensor, " l"]:
    return torch.arange(length, dtype=torch.float32)


def _first(flags: Tensor) -> Float[Tensor, "1 1"]:
    """The first position that is flagged; the length when none is."""
    length = flags.shape[-1]
    return torch.where(flags, _positions(length), float(length)).amin(-1, keepdim=True)


def _last(flags: Tensor) -> Float[Tensor, "1 1"]:
    """The last position that is flagged; -1 when none is."""
    return torch.where(flags, _positions(flags.shape[-1]), -1.0).amax(-1, keepdim=True)


def _best(
    logits: Float[Tensor, "1 l v"],
) -> tuple[Float[Tensor, "1 l"], Int[Tensor, "1 l"], Float[Tensor, "1 l"], Float[Tensor, "1 l"]]:
    """The largest logit, its token, the next one, and the weights of all others as shares of the best one's.

    The best one is left out of the sum: 1 + 1e-9 would be 1.
    """
    best, best_id = logits.amax(-1), logits.argmax(-1)
    is_best = torch.arange(logits.shape[-1]) == best_id[..., None]
    others = logits + is_best.float() * (8 * BARRED)
    return best, best_id, others.amax(-1), torch.exp(others - best[..., None]).sum(-1)


def _is_over(ahead: Float[Tensor, "1 l"], others: Float[Tensor, "1 l"], is_asked: Tensor, number: Tensor) -> Tensor:
    """bool[1, l]: positions behind the last that is not over. ahead: of the end's logit, over the best."""
    weight = torch.exp(ahead.clamp(max=HOTTEST))
    probability = weight / (weight + 1 + others)
    least = torch.where(is_asked, probability, 1.0).amin(-1, keepdim=True) * is_asked[:, :1].float()
    last_open = _last(is_asked & (probability <= least + number * (1 - least)))
    return (_positions(ahead.shape[-1]) > last_open) & (last_open < _last(is_asked))


def _doubt(
    policy: Tensor, others: Float[Tensor, "1 l"], lead: Float[Tensor, "1 l"], order: Float[Tensor, "1 l"]
) -> Float[Tensor, "1 l"]:
    """The lower, the sooner a position is opened: the odds against its best token, or against its lead."""
    half = torch.tanh(lead / 2)  # 1 - exp(-lead) = 2 half / (1 + half), without the cancellation
    by_lead = (others + torch.exp(-lead)) / (2 * half / (1 + half)).clamp(min=LEAST_LEAD)
    by_lead = torch.where(lead > 0, by_lead, NO_LEAD)
    by_odds = others.clamp(min=LEAST_ODDS)
    return torch.where(policy == step.ORDER, order, torch.where(policy == step.MARGIN, by_lead, by_odds))


def _rank(doubt: Float[Tensor, "1 l"], is_late: Tensor, in_question: Tensor) -> Float[Tensor, "1 l"]:
    """How many positions come before each. By comparing all pairs: TensorRT's TopK promises no order among equals."""
    position = _positions(doubt.shape[-1])
    mine, other = doubt[..., :, None], doubt[..., None, :]
    is_sooner = (other < mine) | ((other == mine) & (position < position[:, None]))
    late, other_late = is_late[..., :, None], is_late[..., None, :]
    is_before = (late & ~other_late) | ((late | ~other_late) & is_sooner)
    return (is_before & in_question[..., None, :]).float().sum(-1)


def _spread(values: Float[Tensor, "1 n"], place: Int[Tensor, " n"], length: int) -> Int[Tensor, "1 l"]:
    """Values at their places, 0 elsewhere."""
    is_here = _positions(length)[:, None] == place.float()
    return (is_here.float() * values[:, None]).sum(-1).long()


def _kept(weight: Float[Tensor, "1 n k"], top_k: Tensor, top_p: Tensor) -> Float[Tensor, "1 n k"]:
    """The `top_k` largest, and of these the largest until `top_p` is reached; the rest gets 0. Largest come first."""
    last = (top_k[None] - 1).clamp(max=weight.shape[-1] - 1).long()
    weight = weight * (weight >= weight.index_select(-1, last)).float()
    reached = _running_sum(weight)
    is_short = reached < top_p * reached[..., -1:]
    needed = is_short.float().sum(-1, keepdim=True).clamp(max=weight.shape[-1] - 1).long()
    return weight * (weight >= weight.gather(-1, needed)).float()


def _running_sum(weight: Float[Tensor, "1 n k"]) -> Float[Tensor, "1 n k"]:
    """By doubling: TensorRT 10.3 runs CumSum as a loop, and a product with a triangle in TF32."""
    stride = 1
    while stride < weight.shape[-1]:
        weight = weight + F.pad(weight[..., :-stride], (stride, 0))
        stride *= 2
    return weight
