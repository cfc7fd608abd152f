"""The device's sampler against the library's, on the same logits."""

import itertools

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ddlm import diffusion
from ddlm.diffusion import SamplingConfig, unmasking, view
from ddlm.diffusion import sampler as library
from ddlm.diffusion import tokens as library_tokens
from ddlm.export.runtime import sampler, tokens
from ddlm.export.runtime import unmasking as runtime_unmasking
from tests.ddlm.export.policies import settings

END_ID, MASK_ID, LENGTH = 0, 9, 12
DRAWS = [(0, 0, ()), (7, 2, (4,)), (2**40 + 1, 1, (4, END_ID)), (-3, 5, ())]
"""Seed, sample number, forbidden ids."""


class Network:
    """From everything on the canvas to one of a few rows of logits for each position, so that scores tie, exactly.

    In some rows two tokens tie too. Sums over other rows differ by more than the two libraries' roundings.
    """

    def __init__(self):
        generator = np.random.default_rng(5)
        self.rows = generator.normal(0, 2, (24, MASK_ID)).astype(np.float32)
        self.rows[::3, 2] = self.rows[::3].max(axis=1)
        self.rows[::4, END_ID] += 2
        self.calls = 0

    def __call__(self, ids):
        self.calls += 1
        seed = int(ids @ np.arange(1, len(ids) + 1))
        generator = np.random.default_rng(seed)
        return self.rows[generator.choice(generator.integers(0, len(self.rows), 4), len(ids))]


def draw_of(config, seed, number, forbidden):
    return tokens.Draw(tokens.Sampling(**config.model_dump()), seed, number, END_ID, MASK_ID, forbidden)


def library_states(canvas, config, seed, number, forbidden):
    """The states after each step, and the calls."""
    network = Network()
    denoiser = view.everywhere(lambda ids: torch.from_numpy(np.stack([network(row.numpy()) for row in ids])))
    draw = library_tokens.Draw(config, seed, torch.tensor([number]), END_ID, forbidden)
    _, *steps = library.denoise(denoiser, torch.from_numpy(canvas)[None], MASK_ID, draw)
    return [step.ids[0].numpy() for step in steps], network.calls


def canvas(*fixed):
    return np.array(list(fixed) + [MASK_ID] * (LENGTH - len(fixed)))


@pytest.mark.parametrize("policy", unmasking.POLICIES)
def test_every_state_of_the_canvas_and_every_call_is_the_librarys(policy):
    for number, (config, draw) in enumerate(zip(settings(policy), itertools.cycle(DRAWS), strict=False)):
        start, network = canvas(3, number % MASK_ID), Network()
        start[6] = 5  # something in the middle stands already
        states = list(sampler.denoise(network, start, draw_of(config, *draw)))
        wanted, calls = library_states(start, config, *draw)
        assert len(states) == len(wanted)
        assert np.array_equal(states, wanted), config
        assert network.calls == calls, config
        assert MASK_ID not in states[-1]


def test_at_temperature_0_a_text_ends_where_the_librarys_does_whatever_the_seed():
    config = SamplingConfig(temperature=0.0, num_sampling_steps=4)
    for first, seed in itertools.product(range(MASK_ID), range(4)):
        states = list(sampler.denoise(Network(), canvas(first), draw_of(config, seed, 0, ())))
        assert np.array_equal(states, library_states(canvas(first), config, seed, 0, ())[0])


def test_the_texts_of_that_comparison_differ_and_some_end():
    ends = [
        int((list(sampler.denoise(Network(), canvas(3, 1), draw_of(config, seed, 0, ())))[-1] == END_ID).sum())
        for config in settings("confidence")
        for seed in range(2)
    ]
    assert len(set(ends)) > 4


def test_it_knows_the_policies_of_the_library_and_their_numbers():
    assert set(runtime_unmasking.POLICIES) == set(unmasking.POLICIES)
    assert runtime_unmasking.SAMPLING_PARAMETERS == diffusion.SAMPLING_PARAMETERS
    assert runtime_unmasking.END_PENALTY == view.END_PENALTY
    for name in ("REWRITING", "LOOP_ON", "LOOP_OFF", "LOOP_ALPHA"):
        assert getattr(runtime_unmasking, name) == getattr(unmasking, name)


def test_it_takes_every_setting_of_the_library():
    assert set(SamplingConfig.model_fields) == set(tokens.Sampling.__dataclass_fields__)


def test_a_full_canvas_is_left_as_it_is():
    network = Network()
    assert list(sampler.denoise(network, canvas(*[1] * LENGTH), draw_of(SamplingConfig(), 0, 0, ()))) == []
    assert network.calls == 0


def test_the_logits_of_the_network_are_left_as_they_are():
    logits = np.zeros((LENGTH, MASK_ID), dtype=np.float32)
    list(sampler.denoise(lambda ids: logits, canvas(), draw_of(SamplingConfig(), 0, 0, (4,))))
    assert not logits.any()


def sampling(**given):
    return tokens.Sampling(**SamplingConfig(**given).model_dump())


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"top_p": 0.3}, [False, True, False, False]),
        ({"top_p": 0.5}, [True, True, True, True]),
        ({"top_p": 1.0, "top_k": 1}, [False, True, False, False]),
        ({"top_p": 1.0, "top_k": 2}, [True, True, True, True]),
    ],
)
def test_the_likely_tokens_are_kept_and_what_ties_with_the_last_of_them_too(given, kept):
    weight = np.array([[0.2, 0.4, 0.2, 0.2]], dtype=np.float32)
    assert (tokens.keep_likely(weight, sampling(**given)) > 0).tolist() == [kept]


def test_a_temperature_beyond_float32_still_takes_the_best_token():
    logits = np.array([[1.0, 2.0]], dtype=np.float32)
    drawn = tokens.draw_tokens(logits, np.array([0.01]), 1e-40, sampling(top_p=1.0))
    assert drawn.tolist() == [1]


@pytest.mark.parametrize("measure", ["log_odds", "margin", "entropy"])
def test_a_vocabulary_of_usual_size_is_measured_as_by_the_library(measure):
    logits = np.random.default_rng(1).normal(0, 4, (50, 4096)).astype(np.float32)
    logits[3, 7] = 200  # all but certain
    logits[5, [2, 9]] = logits[5].max()
    logits[:, 11] = -np.inf
    theirs = getattr(library_tokens, measure)(torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(getattr(tokens, measure)(logits), theirs, rtol=2e-5, atol=1e-6)


def test_a_parameter_of_another_policy_is_one_that_the_library_refuses():
    for parameter, owners in runtime_unmasking.SAMPLING_PARAMETERS.items():
        for policy in set(runtime_unmasking.POLICIES) - set(owners):
            with pytest.raises(ValidationError, match=f"{parameter} is for unmasking"):
                SamplingConfig(unmasking=policy, **{parameter: 1 if parameter == "most_per_step" else 0.5})
