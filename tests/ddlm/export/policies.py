"""Settings that take every policy through its shapes: for whatever repeats the library's sampler."""

import itertools

from ddlm.diffusion import SamplingConfig

SHAPES = list(itertools.product((1, 5, 40), ("drawn", "last", "free"), (0.0, 0.7, 1.0)))
BLOCKS = [None, 5, None, 4, 5, None, 7]
EXTRAS = [
    {"top_p": 1.0},
    {"top_p": 0.6, "grid": "cosine"},
    {"top_k": 3, "top_p": 1.0, "final_temperature": 0.3},
    {"top_k": 4, "top_p": 0.8, "repetition_penalty": 1.5, "grid": "cosine"},
    {"top_p": 0.9, "final_temperature": 1.4, "temperature_schedule": "cosine"},
]
COOLING = ("final_temperature", "temperature_schedule")
"""Without effect from temperature 0."""
OWN = {
    "threshold": [{"threshold": 0.3}, {"threshold": 0.6, "most_per_step": 2}],
    "entropy_bound": [{"entropy_bound": 0.9}, {"entropy_bound": 2.5, "most_per_step": 3}, {"entropy_bound": 0.0}],
    "remdm_cap": [{"remask_share": 0.3}],
    "remdm_rescale": [{"remask_share": 0.7}],
    "remdm_loop": [{"remask_share": 0.2}],
}


def settings(policy):
    """Every shape; what else there is to set takes turns."""
    turns = [itertools.cycle(values) for values in (BLOCKS, EXTRAS, [{}, *OWN.get(policy, [])])]
    for (steps, ends, temperature), block_size, extra, mine in zip(SHAPES, *turns, strict=False):
        chosen = {name: value for name, value in extra.items() if temperature or name not in COOLING}
        yield SamplingConfig(
            unmasking=policy, num_sampling_steps=steps, ends=ends, block_size=block_size, temperature=temperature,
            **chosen, **mine,
        )  # fmt: skip
