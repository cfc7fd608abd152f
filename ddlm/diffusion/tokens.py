"""What logits say about a position, and one token drawn from them.

Positions are chosen before tokens are drawn, so the mask is never a competitor in a draw. In a race with it in float32
rare tokens come too seldom and samples look better than the model is.
Source: Zheng et al., Masked diffusion models are secretly time-agnostic, 2024.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddlm import draws
from ddlm.diffusion import SamplingConfig

CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}
"""Logits that are looked at at a time, by device: on a CPU what lies between stays in a core's cache; on a GPU every
chunk costs some launches."""
NUCLEUS_GUESS = 128
"""Most nuclei are smaller than this; sorting a whole vocabulary takes twenty times as long as finding so many."""

COLDEST = 1e-30
"""Below it a temperature would be 0 in float32."""
LEAST_ODDS = 1e-15
"""Below it a float64 sum that begins with 1 tells nothing apart."""

Measure = Callable[[Float[Tensor, "n v"]], Float[Tensor, " n"]]


@dataclass(frozen=True, eq=False)
class Draw:
    """How tokens are drawn, and whose draws they are.

    sample: each row's sample number: with the seed it fixes the text, whatever else is in the batch.
    end_id: the token that ends a text. forbidden: ids that can't come out.
    first_position: of each row, how much of the text lies before the canvas: draws are keyed by the place in the text.
    starts_word, word_starts: positions whose token must be one of the ids that are True in `word_starts`.
    """

    config: SamplingConfig
    seed: int
    sample: Int[Tensor, " b"]
    end_id: int
    forbidden: tuple[int, ...] = ()
    first_position: Int[Tensor, " b"] | None = None
    starts_word: Bool[Tensor, "b l"] | None = None
    word_starts: Bool[Tensor, " v"] | None = None

    def of_rows(self, index: Int[Tensor, " n"]) -> "Draw":
        first = None if self.first_position is None else self.first_position[index]
        starts = None if self.starts_word is None else self.starts_word[index]
        return replace(self, sample=self.sample[index], first_position=first, starts_word=starts)

    def words(
        self, step: Int[Tensor, " b"], row: Int[Tensor, "*n"], position: Int[Tensor, "*n"]
    ) -> list[Float[Tensor, "*n"]]:
        """The four words of places of the canvas, as float64. step: each row's own."""
        if self.first_position is not None:
            position = position + self.first_position[row]
        return self._words(self.sample[row], step[row], position)

    def row_words(self, step: Int[Tensor, " b"]) -> list[Float[Tensor, " b"]]:
        """Four words for each row."""
        return self._words(self.sample, step, torch.full_like(step, draws.WHOLE_ROW))

    def _words(self, sample: Tensor, step: Tensor, position: Tensor) -> list[Tensor]:
        """On a CPU by numpy, which is five times as fast."""
        at = (sample, step, position, torch.zeros_like(position))
        if position.device.type != "cpu":
            return [word.double() for word in draws.words(self.seed, *at)]
        return [torch.from_numpy(word).double() for word in draws.words(self.seed, *(value.numpy() for value in at))]

    def forbid(self, logits: Float[Tensor, "n v"], place: Int[Tensor, " n"]) -> None:
        """In place: what can't come out gets -inf. place: row · l + position of each row of logits."""
        for token in self.forbidden:
            logits[:, token] = -math.inf
        if self.starts_word is not None and self.word_starts is not None:
            logits.masked_fill_(self.starts_word.flatten()[place][:, None] & ~self.word_starts, -math.inf)


def temperature_at(config: SamplingConfig, written: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """written: the share of the text that is written already, 0 … 1."""
    if config.final_temperature is None:
        return torch.full_like(written, config.temperature)
    progress = (1 - torch.cos(math.pi * written)) / 2 if config.temperature_schedule == "cosine" else written
    return config.temperature + (config.final_temperature - config.temperature) * progress


def in_chunks(measure: Measure, logits: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    size = CHUNK_BYTES.get(logits.device.type, CHUNK_BYTES["cpu"])
    rows = max(1, size // (4 * logits.shape[1]))
    return torch.cat([measure(part) for part in torch.split(logits, rows)]) if len(logits) else logits.new_zeros(0)


def log_odds(logits: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    """log(p / (1 - p)) of the most likely token, float64: it orders like p, and does not end in a tie where p nears 1.

    In float64 the sum of all weights less the best one's, which is 1, keeps what the others have.
    """
    others = _behind(logits).exp_().sum(-1, dtype=torch.float64) - 1
    return -others.clamp(min=LEAST_ODDS).log()


def margin(logits: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    """The probability of the most likely token less that of the next, float64."""
    first, second = logits.topk(2).values.double().unbind(-1)
    return (1 - (second - first).exp()) / _behind(logits).exp_().sum(-1, dtype=torch.float64)


def entropy(logits: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    """In nats, float64."""
    behind = _behind(logits).clamp_(min=-100)  # a forbidden token's weight is 0, and 0 times infinity would be none
    weight = behind.exp()
    total = weight.sum(-1, dtype=torch.float64)
    return total.log() - (weight * behind).sum(-1, dtype=torch.float64) / total


def _behind(logits: Float[Tensor, "n v"]) -> Float[Tensor, "n v"]:
    """How far every token is behind the most likely one, in new memory."""
    return logits - logits.amax(-1, keepdim=True)


def wants(logits: Float[Tensor, "n v"], token: int) -> Tensor:
    """bool[n]: whether no token is more likely than this one."""
    return logits[:, token] >= logits.amax(-1)


def probability(logits: Float[Tensor, "n v"], token: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Of a token of each row, at temperature 1 and unfiltered."""
    return torch.softmax(logits, dim=-1).gather(-1, token[:, None])[:, 0]


def probability_of(logits: Float[Tensor, "n v"], token: int) -> Float[Tensor, " n"]:
    return in_chunks(lambda part: (part[:, token] - part.logsumexp(-1)).exp(), logits)


def draw_tokens(
    logits: Float[Tensor, "n v"],
    uniform: Float[Tensor, " n"],
    temperature: Float[Tensor, " n"],
    config: SamplingConfig,
) -> Int[Tensor, " n"]:
    """One token a row, by inverting the cumulative distribution, summed in float64, of what the filters leave.

    uniform: float64 in (0, 1). In the order of ids, so that two nearly equal tokens that swap ranks change nothing.
    """
    if config.temperature == 0:
        return logits.argmax(-1)
    weight = _behind(logits).div_(temperature.float().clamp(min=COLDEST)[:, None]).exp_()
    reached = keep_likely(weight, config).cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(reached, uniform[:, None] * reached[:, -1:])[:, 0]


def keep_likely(weight: Float[Tensor, "n v"], config: SamplingConfig) -> Float[Tensor, "n v"]:
    """Top-k, then nucleus: the most likely tokens until `top_p` is reached; the rest gets 0.

    weight: probabilities but for a factor. What ties with the last that is kept is kept too: equal tokens fare alike.
    Source: Holtzman et al., 2020.
    """
    if config.top_k is not None and config.top_k < weight.shape[-1]:
        weight = weight * (weight >= weight.topk(config.top_k).values[:, -1:])
    if config.top_p < 1:
        weight = weight * (weight >= nucleus_edge(weight, config.top_p))
    return weight


def nucleus_edge(weight: Float[Tensor, "n v"], top_p: float) -> Float[Tensor, "n 1"]:
    """The least likely token that the nucleus needs."""
    wanted = top_p * weight.sum(-1, keepdim=True, dtype=torch.float64)
    for ordered in _largest_first(weight):
        is_short = ordered.cumsum(-1, dtype=torch.float64) < wanted
        if ordered.is_cuda or ordered.shape[-1] == weight.shape[-1] or not bool(is_short[:, -1].any()):
            break
    needed = is_short.sum(-1, keepdim=True).clamp(max=ordered.shape[-1] - 1)
    return ordered.gather(-1, needed)


def _largest_first(weight: Float[Tensor, "n v"]) -> Iterator[Tensor]:
    """On a CPU some of them at first. A GPU sorts all at once, and would have to be asked whether some were enough."""
    if not weight.is_cuda and weight.shape[-1] > NUCLEUS_GUESS:
        yield weight.topk(NUCLEUS_GUESS).values
    yield weight.sort(dim=-1, descending=True).values


def penalise(logits: Float[Tensor, "n v"], is_used: Tensor, penalty: float) -> Float[Tensor, "n v"]:
    """Make tokens that the text has already less likely. is_used: bool[n, v]. Source: Keskar et al., CTRL, 2019."""
    return torch.where(is_used, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
