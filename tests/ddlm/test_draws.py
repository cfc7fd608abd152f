"""Philox against its published vectors; numpy and torch alike."""

import numpy as np
import pytest
import torch

from ddlm import draws

VECTORS = [  # Random123's known answers for philox4x32-10
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((draws.WORD,) * 4, (draws.WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_the_published_vectors_come_out_in_numpy_and_torch(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    in_numpy = draws.philox(tuple(np.array([word]) for word in counter), key)  # type: ignore[arg-type]
    in_torch = draws.philox(tuple(torch.tensor([word]) for word in counter), key)  # type: ignore[arg-type]
    assert tuple(int(word[0]) for word in in_numpy) == expected
    assert tuple(int(word[0]) for word in in_torch) == expected


def test_a_draw_does_not_depend_on_what_is_drawn_beside_it() -> None:
    position = torch.arange(10)
    many = draws.words(5, torch.tensor([[0], [3]]), torch.tensor(2), position, torch.tensor(0))
    alone = draws.words(5, torch.tensor(3), torch.tensor(2), torch.tensor([7]), torch.tensor(0))
    assert [words[1, 7] for words in many] == [words[0] for words in alone]


def test_uniforms_are_inside_the_unit_interval_and_even() -> None:
    assert 0 < draws.to_unit(np.float64(0)) < draws.to_unit(np.float64(draws.WORD)) < 1
    words = draws.words(1, np.array([0]), np.array([0]), np.arange(20000))
    order, high, low, _ = (word.astype(np.float64) for word in words)
    for uniform in (draws.to_unit(order), draws.pair_to_unit(high, low)):
        assert abs(uniform.mean() - 0.5) < 0.01
        assert abs(np.var(uniform) - 1 / 12) < 0.002


def test_a_pair_of_words_has_52_bits_and_stays_inside_the_unit_interval() -> None:
    zero, most = np.float64(0), np.float64(draws.WORD)
    assert draws.pair_to_unit(zero, zero) == 2.0**-53
    assert draws.pair_to_unit(most, most) == 1 - 2.0**-53
    assert draws.pair_to_unit(np.float64(64), zero) - draws.pair_to_unit(zero, zero) == 2.0**-26
    assert draws.pair_to_unit(zero, np.float64(64)) - draws.pair_to_unit(zero, zero) == 2.0**-52


def test_every_part_of_the_address_matters() -> None:
    one = np.array([1])
    base = [word.item() for word in draws.words(7, one, one, one, one)]
    for changed in ((8, one, one, one, one), (7, one + 1, one, one, one), (7, one, one + 1, one, one)):
        assert [word.item() for word in draws.words(*changed)] != base
    assert [word.item() for word in draws.words(7 + 2**32, one, one, one, one)] != base
    assert [word.item() for word in draws.words(7 + 2**64, one, one, one, one)] == base
