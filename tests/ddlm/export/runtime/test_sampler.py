"""The device's sampler against the library's, on the same logits."""

import itertools

import numpy as np
import pytest
import torch

from ddlm.diffusion import SamplingConfig, unmasking
from ddlm.diffusion import sampler as library
from ddlm.export.runtime import sampler

END_ID, MASK_ID, LENGTH = 0, 9, 12
SPECIAL = sampler.Special(END_ID, MASK_ID)
SETTINGS = [
    SamplingConfig(unmasking=name, num_sampling_steps=steps, temperature=temperature, top_k=top_k, top_p=top_p)
    for name, steps, temperature, (top_k, top_p) in itertools.product(
        unmasking.POLICIES, (1, 5, 40), (0.0, 0.7, 1.0), ((None, 1.0), (None, 0.6), (3, 1.0), (4, 0.8))
    )
]


def network(ids):
    """Coarse logits, so that ties are common, from everything on the canvas."""
    seed = int(ids @ np.arange(1, LENGTH + 1))
    return np.random.default_rng(seed).integers(-3, 4, (LENGTH, MASK_ID)).astype(np.float32) / 2


def denoiser(ids):
    return torch.from_numpy(np.stack([network(row.numpy()) for row in ids]))


def library_states(canvas, config, seed, number):
    states = []
    draw = library.Draw(config, seed, torch.tensor([number]), END_ID)
    library.sample(denoiser, torch.from_numpy(canvas)[None], MASK_ID, draw, lambda step: states.append(step.ids[0]))
    return [state.numpy() for state in states[1:]]


@pytest.mark.parametrize("config", SETTINGS, ids=str)
def test_every_state_of_the_canvas_is_the_librarys(config):
    start = sampler.canvas([3, 1], LENGTH, SPECIAL)
    sampling = sampler.Sampling(**config.model_dump())
    for seed, number in ((0, 0), (7, 2), (2**40 + 1, 1)):
        states = list(sampler.denoise(network, start, SPECIAL, sampling, (seed, number)))
        assert np.array_equal(states, library_states(start, config, seed, number))


def test_it_knows_the_policies_of_the_library_and_its_penalty():
    assert set(sampler.POLICIES) == set(unmasking.POLICIES)
    assert sampler.END_PENALTY == unmasking.END_PENALTY


def test_it_takes_every_setting_of_the_library():
    assert set(SamplingConfig.model_fields) == set(sampler.Sampling.__dataclass_fields__)


def test_a_full_canvas_is_left_as_it_is():
    start = sampler.canvas([1] * LENGTH, LENGTH, SPECIAL)
    sampling = sampler.Sampling(**SamplingConfig().model_dump())
    assert list(sampler.denoise(network, start, SPECIAL, sampling, (0, 0))) == []


def test_the_smallest_likely_set_is_kept_and_ties_go_to_the_lower_id():
    scaled = np.log(np.array([[0.2, 0.4, 0.2, 0.2]]))
    kept = sampler.keep_likely(scaled, sampler.Sampling("random", 1, 1.0, None, 0.5))
    assert np.isfinite(kept).tolist() == [[True, True, False, False]]
    kept = sampler.keep_likely(scaled, sampler.Sampling("random", 1, 1.0, 3, 1.0))
    assert np.isfinite(kept).tolist() == [[True, True, True, False]]


def test_a_token_that_only_starts_where_top_p_is_reached_is_dropped():
    kept = sampler.keep_likely(np.zeros((1, 4)), sampler.Sampling("random", 1, 1.0, None, 0.5))
    assert np.isfinite(kept).tolist() == [[True, True, False, False]]


def test_a_temperature_beyond_float32_still_takes_the_best_token():
    logits = np.array([[1.0, 2.0]], dtype=np.float32)
    sampling = sampler.Sampling("random", 1, 1e-40, None, 1.0)
    assert sampler.draw_tokens(logits, np.array([0]), sampler.Moment(0, 0, 0), sampling).tolist() == [1]
