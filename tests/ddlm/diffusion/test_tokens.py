"""Draws against the distribution they are of."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ddlm.diffusion import SamplingConfig, tokens
from ddlm.diffusion.tokens import Draw, draw_tokens, keep_likely, temperature_at

LOGITS = torch.randn(200, 50, generator=torch.Generator().manual_seed(2)) * 4
PLAIN = SamplingConfig(temperature=1.0, top_p=1.0)
ONE = torch.ones(1, dtype=torch.float64)


def softmax() -> Tensor:
    return LOGITS.double().softmax(-1)


def test_log_odds_margin_and_entropy_are_those_of_the_softmax() -> None:
    p = softmax()
    top = p.topk(2).values
    expected = {
        tokens.log_odds: (top[:, 0] / (1 - top[:, 0])).log(),
        tokens.margin: top[:, 0] - top[:, 1],
        tokens.entropy: -(p * p.log()).sum(-1),
    }
    for measure, values in expected.items():
        torch.testing.assert_close(tokens.in_chunks(measure, LOGITS).double(), values, rtol=1e-4, atol=1e-5)


def test_measures_stand_ties_and_forbidden_tokens() -> None:
    logits = torch.tensor([[2.0, 2.0, -math.inf], [0.0, -math.inf, -math.inf]])
    assert tokens.log_odds(logits).tolist() == pytest.approx([0.0, -math.log(tokens.LEAST_ODDS)])
    assert tokens.margin(logits).tolist() == pytest.approx([0.0, 1.0])
    assert tokens.entropy(logits).tolist() == pytest.approx([math.log(2), 0.0])


def test_a_uniform_number_is_turned_into_the_token_whose_interval_holds_it() -> None:
    logits = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).log()
    for uniform, token in ((1e-9, 0), (0.1999, 0), (0.2001, 1), (0.6999, 1), (0.7001, 2), (1 - 1e-9, 2)):
        assert draw_tokens(logits, torch.tensor([uniform], dtype=torch.float64), ONE, PLAIN).tolist() == [token]


def test_rare_tokens_keep_their_share_where_float32_gumbel_noise_loses_a_part_of_them() -> None:
    """A race of one rare token with the mask, as a sampler runs it that draws positions and tokens in one.

    Both noises come from a grid of 2^-24, as `torch.rand` in float32 has it. The rare token can only win with one of
    its highest values, of which there are few: enumerated, not simulated.
    """
    share = 1e-7  # a token of probability 1e-4 at one of 1,000 steps
    highest = 1 - torch.arange(1, 400, dtype=torch.float64) * 2.0**-24
    noise = -torch.log(-torch.log(highest.float()))
    other_below = noise.double() + math.log(share) - math.log1p(-share)
    wins = (torch.exp(-torch.exp(-other_below)) * 2.0**-24).sum()
    c = 2.0**-24 / share
    assert float(wins) / share == pytest.approx(c / math.expm1(c), rel=0.02)
    assert float(wins) / share < 0.8

    logits = torch.tensor([[1 - 1e-9, 1e-9]]).log()
    edge = 1 - 1e-9
    for offset, token in ((-1e-15, 0), (1e-14, 1)):
        assert draw_tokens(logits, torch.tensor([edge + offset], dtype=torch.float64), ONE, PLAIN).tolist() == [token]


def test_frequencies_are_the_probabilities() -> None:
    rows = 100_000
    draw = Draw(PLAIN, 5, torch.arange(rows), 0)
    _, high, low, _ = draw.row_words(torch.full((rows,), 999))
    from ddlm import draws

    logits = torch.tensor([0.899, 0.1, 1e-3]).log().expand(rows, 3)
    ids = draw_tokens(logits, draws.pair_to_unit(high, low), torch.ones(rows, dtype=torch.float64), PLAIN)
    assert float((ids == 1).float().mean()) == pytest.approx(0.1, rel=0.05)
    assert float((ids == 2).float().mean()) == pytest.approx(1e-3, rel=0.25)


def test_temperature_zero_takes_the_most_likely() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 2.0, 0.0]])
    config = SamplingConfig(temperature=0.0)
    assert draw_tokens(logits, torch.full((2,), 0.9).double(), torch.zeros(2).double(), config).tolist() == [1, 0]


def test_filters_keep_the_smallest_likely_set_and_what_ties_with_its_last() -> None:
    weight = torch.tensor([[0.5, 0.2, 0.25, 0.05]])

    def kept(**settings: object) -> list[bool]:
        return (keep_likely(weight, SamplingConfig(**settings)) > 0)[0].tolist()  # type: ignore[arg-type]

    assert kept(top_p=0.6) == [True, False, True, False]
    assert kept(top_k=3, top_p=1.0) == [True, True, True, False]
    assert kept(top_p=0.01) == [True, False, False, False]
    assert kept(top_k=99, top_p=1.0) == [True] * 4
    tied = torch.tensor([[0.4, 0.2, 0.2, 0.2]])
    assert keep_likely(tied, SamplingConfig(top_p=0.5)).equal(tied)


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
def test_a_nucleus_wider_than_the_first_guess_is_found_too(top_p: float, spread: float) -> None:
    weight = (torch.randn(5, 3000, generator=torch.Generator().manual_seed(1)) * spread).exp()
    kept = keep_likely(weight, SamplingConfig(top_p=top_p)) > 0
    p = weight.double() / weight.double().sum(-1, keepdim=True)
    mass = (p * kept).sum(-1)
    assert (mass >= top_p - 1e-12).all()
    assert (mass - p.masked_fill(~kept, 2).amin(-1) < top_p).all()


def test_a_repeated_token_becomes_less_likely() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    used = torch.tensor([[True, True, False]])
    assert tokens.penalise(logits, used, 2.0).tolist() == [[1.0, -4.0, 1.0]]


def test_the_temperature_moves_from_first_to_last() -> None:
    written = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    linear = SamplingConfig(temperature=1.5, final_temperature=0.5)
    cosine = SamplingConfig(temperature=1.5, final_temperature=0.5, temperature_schedule="cosine")
    assert temperature_at(linear, written).tolist() == pytest.approx([1.5, 1.25, 1.0, 0.5])
    assert temperature_at(cosine, written).tolist() == pytest.approx(
        [1.5, 1.5 - (1 - math.cos(math.pi / 4)) / 2, 1.0, 0.5]
    )
    assert temperature_at(SamplingConfig(temperature=0.7), written).tolist() == pytest.approx([0.7] * 4)
    with pytest.raises(ValidationError, match="final_temperature has no effect from temperature 0"):
        SamplingConfig(temperature=0.0, final_temperature=0.5)


def test_the_places_where_a_word_begins_take_only_what_begins_one() -> None:
    starts = torch.tensor([[False, True]])
    draw = Draw(PLAIN, 0, torch.arange(1), 0, (2,), starts_word=starts, word_starts=torch.tensor([False, True, True]))
    logits = torch.zeros(2, 3)
    draw.forbid(logits, torch.tensor([0, 1]))
    assert torch.isfinite(logits).tolist() == [[True, True, False], [False, True, False]]
