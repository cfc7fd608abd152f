"""Calibration against models of which it is known how sure and how right they are."""

import numpy as np
import pytest
import torch

from ddlm.data.packing import Rows
from ddlm.evaluation.calibration import BINS, calibrate
from ddlm.evaluation.sweep import Sweep

MASK_ID, SEQ_LEN = 4, 16


def rows_of(count, text_tokens=SEQ_LEN, seed=0):
    """Token 0 three times out of four, else another one."""
    rng = np.random.default_rng(seed)
    tokens = rng.choice(4, size=(count, SEQ_LEN), p=[0.75, 0.15, 0.05, 0.05]).astype(np.int32)
    return Rows(tokens, np.full(count, text_tokens), np.full(count, text_tokens))


def says(*probabilities):
    """A denoiser that says the same of every position it is asked for."""
    logits = torch.tensor(probabilities).log()
    return lambda ids, wanted: logits.expand(int(wanted.sum()), -1)


def found_of(denoiser, rows, batch_size=32):
    return calibrate(denoiser, rows, mask_id=MASK_ID, seed=3, sweep=Sweep(batch_size))


def test_one_who_says_what_is_so_makes_no_error():
    found = found_of(says(0.75, 0.15, 0.05, 0.05), rows_of(128))
    (only,) = found.bins
    assert only.confidence == pytest.approx(0.75)
    assert only.accuracy == pytest.approx(0.75, abs=0.03)
    assert found.error == pytest.approx(abs(only.confidence - only.accuracy))
    assert found.tokens == only.tokens > 1000


def test_one_who_is_too_sure_errs_by_how_much_he_is():
    found = found_of(says(0.97, 0.01, 0.01, 0.01), rows_of(128))
    assert found.error == pytest.approx(0.97 - 0.75, abs=0.03)


def test_what_is_said_with_certainty_falls_into_the_last_bin():
    found = found_of(says(1.0, 0.0, 0.0, 0.0), rows_of(8))
    assert [(round(part.confidence, 6), part.tokens) for part in found.bins] == [(1.0, found.tokens)]


def test_tokens_are_sorted_by_how_sure_they_are():
    def by_row(ids, wanted):
        table = torch.tensor([[0.4, 0.2, 0.2, 0.2], [0.88, 0.04, 0.04, 0.04]]).log()
        return table[wanted.nonzero()[:, 1] % 2]

    found = found_of(by_row, rows_of(64))
    assert [round(part.confidence, 2) for part in found.bins] == [0.4, 0.88]
    assert found.error == pytest.approx(
        sum(p.tokens * abs(p.confidence - p.accuracy) for p in found.bins) / found.tokens
    )


def test_the_tail_behind_a_story_is_not_asked_for():
    asked = []

    def denoiser(ids, wanted):
        asked.append((ids, wanted))
        return torch.zeros(int(wanted.sum()), 4)

    found_of(denoiser, rows_of(16, text_tokens=5))
    assert all(not wanted[:, 5:].any() for _, wanted in asked)
    assert any((ids[:, 5:] == MASK_ID).any() for ids, _ in asked), "but it is hidden like the rest"


def test_it_does_not_depend_on_how_the_rows_are_batched():
    rows, denoiser = rows_of(20), says(0.6, 0.3, 0.05, 0.05)
    assert found_of(denoiser, rows, 3) == found_of(denoiser, rows, 20)
    assert all(0 <= part.confidence <= 1 for part in found_of(denoiser, rows).bins)
    assert len(found_of(denoiser, rows).bins) <= BINS
