"""The forward process: how many tokens are masked at time t, and which.

Everything random is a pure function of (seed, step) and the number of a row in the global batch, drawn with Philox:
ranks and accumulation parts that share a batch between them mask it as one process would, on any device.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddlm import draws
from ddlm.diffusion import ObjectiveConfig
from ddlm.transfer import sent

TRUNCATION_BLOCK, TIME_BLOCK, MASK_BLOCK = (draws.WORD - 1 - number for number in range(3))
"""Blocks of draws that generation never reaches, so that training with a seed shares no word with sampling with it."""


class Schedule(ABC):
    """How much survives at time t. Use float64 times: near the ends the shares of long rows are tiny."""

    @abstractmethod
    def alpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The survival probability: exactly 1 at t = 0 and 0 at t = 1, falling between."""

    @abstractmethod
    def dalpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The derivative of alpha."""

    @abstractmethod
    def inverse(self, alpha: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The time at which so much has survived."""


@dataclass(frozen=True)
class Linear(Schedule):
    """alpha(t) = 1 - t: the masked share is the time.

    It is the log-linear schedule too. Source: Sahoo et al., MDLM, 2024, whose sigma(t) = -log(1 - (1 - eps) t) gives
    alpha = exp(-sigma) = 1 - (1 - eps) t, and whose eps must be 0 for nothing to survive at t = 1.
    """

    def alpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return 1 - t

    def dalpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return -torch.ones_like(t)

    def inverse(self, alpha: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return 1 - alpha


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha(t) = cos(pi t / 2): masks little for long. Written as a sine, which is exact at both ends.

    Source: Sahoo et al., MDLM, 2024. Shi et al., MD4, 2024, call its mirror image 1 - alpha(1 - t) by the same name.
    """

    def alpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return torch.sin(math.pi / 2 * (1 - t))

    def dalpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return -math.pi / 2 * torch.cos(math.pi / 2 * (1 - t))

    def inverse(self, alpha: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return 1 - 2 / math.pi * torch.asin(alpha)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """alpha(t) = 1 - t^power: a power above 1 masks little for long, one below 1 masks much soon.

    Source: Shi et al., MD4, 2024.
    """

    power: float

    def alpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return 1 - t**self.power

    def dalpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return -self.power * t ** (self.power - 1)

    def inverse(self, alpha: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return (1 - alpha) ** (1 / self.power)


@dataclass(frozen=True)
class Sigmoid(Schedule):
    """The logistic function of steepness · (1/2 - t), stretched to reach 1 and 0; half of the tokens at t = 1/2.

    As (1 + tanh(steepness (1/2 - t) / 2) / tanh(steepness / 4)) / 2 both ends are exact.
    """

    steepness: float

    def alpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        bend = torch.tanh(self.steepness / 2 * (0.5 - t))
        return (1 + bend / torch.tanh(torch.full_like(t, self.steepness / 4))) / 2

    def dalpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        bend = torch.tanh(self.steepness / 2 * (0.5 - t))
        return -self.steepness / 4 * (1 - bend**2) / math.tanh(self.steepness / 4)

    def inverse(self, alpha: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return 0.5 - 2 / self.steepness * torch.atanh((2 * alpha - 1) * math.tanh(self.steepness / 4))


@dataclass(frozen=True)
class Geometric(Schedule):
    """alpha = exp(-sigma(t)) with sigma growing geometrically from `smallest` to `largest`, stretched to 1 and 0.

    Source: Lou et al., SEDD, 2024; the stretch is ours, since exp(-smallest) < 1 and exp(-largest) > 0.
    """

    smallest: float
    largest: float

    def survival(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Before the stretch."""
        return torch.exp(-self.sigma(t))

    def sigma(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return self.smallest ** (1 - t) * self.largest**t

    def ends(self, t: Float[Tensor, "*n"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        """Survival at 0 and 1 by the very operations of `survival`, so that the stretch is exact."""
        return self.survival(torch.zeros_like(t)), self.survival(torch.ones_like(t))

    def alpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        first, last = self.ends(t)
        return (self.survival(t) - last) / (first - last)

    def dalpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        first, last = self.ends(t)
        return -math.log(self.largest / self.smallest) * self.sigma(t) * self.survival(t) / (first - last)

    def inverse(self, alpha: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        first, last = self.ends(alpha)
        sigma = -torch.log(last + alpha * (first - last))
        return torch.log(sigma / self.smallest) / math.log(self.largest / self.smallest)


SCHEDULES: dict[str, Callable[[ObjectiveConfig], Schedule]] = {
    "linear": lambda _: Linear(),
    "cosine": lambda _: Cosine(),
    "polynomial": lambda config: Polynomial(config.schedule_power or 2.0),
    "square_root": lambda _: Polynomial(0.5),
    "sigmoid": lambda config: Sigmoid(config.schedule_steepness or 10.0),
    "geometric": lambda config: Geometric(*(config.schedule_sigma or (1e-4, 20.0))),
    "log_linear": lambda _: Linear(),
}


def make_schedule(config: ObjectiveConfig) -> Schedule:
    return SCHEDULES[config.schedule](config)


@dataclass(frozen=True)
class Noise:
    """What one step masks; of the twin, what it predicts.

    With complementary masks rows come in pairs: row 2i a mask, row 2i + 1 its complement.

    length: positions that are kept of each row. truncated: whether that is a cut.
    count: masked positions of every row of the global batch, on the CPU.
    is_masked: the masks of the rows asked for.
    """

    length: int
    truncated: bool
    count: Int[Tensor, " rows"]
    is_masked: Bool[Tensor, "b l"]


def draw_noise(
    config: ObjectiveConfig,
    *,
    seed: int,
    step: int,
    batch_size: int,
    seq_len: int,
    rows: slice | None = None,
    device: torch.device | str = "cpu",
) -> Noise:
    """The noise of a step for `rows` (all when None) of the global batch of `batch_size` rows of `seq_len` tokens.

    The work grows with the rows asked for, and with batch_size only by a few numbers a row.
    """
    length = random_length(config.truncation_share, seed, step, seq_len)
    if config.is_autoregressive:
        return predict_all(length, length < seq_len, batch_size, range(batch_size)[rows or slice(None)], device)
    times = stratified_times(seed, step, batch_size)
    count = num_masked(make_schedule(config).alpha(times), length)
    wanted = rows or slice(None)
    is_masked = random_masks(seed, step, range(batch_size)[wanted], count[wanted], length, torch.device(device))
    if config.complementary:
        is_masked = torch.stack((is_masked, complement(is_masked)), dim=1).flatten(0, 1)
        count = torch.stack((count, torch.where(count < length, length - count, length)), dim=1).flatten()
    return Noise(length, length < seq_len, count, is_masked)


def predict_all(length: int, truncated: bool, batch_size: int, rows: range, device: torch.device | str) -> Noise:
    """What the twin's step predicts: every position of every row."""
    count = torch.full((batch_size,), length)
    return Noise(length, truncated, count, torch.ones(len(rows), length, dtype=torch.bool, device=device))


def random_length(share: float, seed: int, step: int, seq_len: int) -> int:
    """Uniform over 1 … seq_len in a `share` of the steps, else seq_len.

    Source: Nie et al., LLaDA, 2025, with a share of 0.01: lengths below seq_len are seen in training too.
    """
    is_cut, length, _, _ = draws.words(seed, 0, step, 0, TRUNCATION_BLOCK)
    return 1 + (length * seq_len >> 32) if draws.to_unit(is_cut) < share else seq_len


def stratified_times(seed: int, step: int, batch_size: int) -> Float[Tensor, " batch_size"]:
    """float64 times in (0, 1): one in each of `batch_size` equal intervals, in random order.

    Source: Kingma et al., Variational diffusion models, 2021, section 4 (low-discrepancy sampler), with a shift of its
    own for each interval. Stratified over the global batch, not over each process's share of it.
    """
    row = torch.arange(batch_size)
    order, shift, _, _ = draws.words(seed, row, torch.tensor(step), torch.tensor(0), torch.tensor(TIME_BLOCK))
    interval = (order * batch_size + row).argsort()
    return (interval + draws.to_unit(shift.double())) / batch_size  # type: ignore[no-any-return]


def num_masked(alpha: Float[Tensor, " b"], seq_len: int) -> Int[Tensor, " b"]:
    """How many of `seq_len` positions are masked: ceil((1 - alpha) · seq_len), at least 1."""
    return torch.ceil((1 - alpha) * seq_len).clamp(1, seq_len).long()


def count_probability(config: ObjectiveConfig, seq_len: int) -> Float[Tensor, " seq_len"]:
    """p(k), float64, for k = 1 … seq_len: how probable it is that a row of the batch has k masked positions.

    With t uniform, tau(m) = inverse(1 - m) is the distribution function of the masked share, and k is m · seq_len
    rounded up: p(k) = tau(k / seq_len) - tau((k - 1) / seq_len). The linear schedule makes k uniform.
    With complementary masks it is the mean over a pair, whose second row has seq_len - k, and seq_len for seq_len.
    """
    share = torch.arange(seq_len + 1, dtype=torch.float64) / seq_len
    first = make_schedule(config).inverse(1 - share).diff()
    if not config.complementary:
        return first
    return (first + torch.cat((first[:-1].flip(0), first[-1:]))) / 2


def random_masks(
    seed: int, step: int, rows: range, count: Int[Tensor, " b"], seq_len: int, device: torch.device
) -> Bool[Tensor, "b l"]:
    """A mask for each row number in `rows` with exactly `count` positions, every such set equally likely.

    An exact count removes the noise of a binomial one from the loss.
    """
    row = torch.arange(rows.start, rows.stop, rows.step, device=device)[:, None]
    quad = torch.arange(-(-seq_len // draws.LANES), device=device)[None]
    words = draws.words(seed, row, torch.full_like(quad, step), quad, torch.full_like(quad, MASK_BLOCK))
    word = torch.stack(words, dim=-1).flatten(1)[:, :seq_len]
    return smallest(word, sent(count, device))


def smallest(word: Int[Tensor, "b l"], count: Int[Tensor, " b"]) -> Bool[Tensor, "b l"]:
    """The `count` smallest 32-bit words of each row; of equal ones those further left."""
    length = word.shape[1]
    key = word * length + torch.arange(length, device=word.device)
    return key <= key.sort(dim=1).values.gather(1, count[:, None] - 1)


def complement(is_masked: Bool[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
    """What is visible, masked; a full mask stays, since a row without a mask has nothing to learn from.

    So the second count of a pair is uniform over 1 … seq_len where the first is, and the bound stays unbiased.
    Source: Deschenaux et al., Partition generative modeling, 2025 (complementary masking).
    """
    return is_masked.logical_not() | is_masked.all(dim=1, keepdim=True)
