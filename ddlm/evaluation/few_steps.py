"""How likely a model finds rows when it writes them in few steps: the bound for several positions a step.

What a step opens is drawn position by position as if the others were not there, so a row's probability is lower the
fewer steps it takes. In a random order, with the counts of the sampler's grid, -log p(row) is at most the sum over the
steps of -log p(what the step opens | what stood before it), on average over the orders. Source: the any-order bound of
`likelihood`, of which this is the form for groups; with a step for each position it is that bound.

It is of the policy `random` at temperature 1 with the whole vocabulary. Other policies choose by what they see, and
have no such bound.
"""

import numpy as np
import torch

from ddlm.data.packing import Rows
from ddlm.diffusion.bound import guess_masked
from ddlm.diffusion.sampler import to_open
from ddlm.diffusion.view import Denoiser
from ddlm.evaluation.likelihood import REPLICATES, Likelihood, is_text_position, summarise
from ddlm.evaluation.sweep import Sweep

_STEP_DRAWS = 4


def bound_in_steps(
    denoiser: Denoiser,
    rows: Rows,
    *,
    num_sampling_steps: int,
    mask_id: int,
    masks_per_row: int,
    seed: int,
    story: np.ndarray | None = None,
    grid: str = "linear",
    sweep: Sweep = Sweep(),
) -> Likelihood:
    """An upper bound, `masks_per_row` (even) masks a row, each of one step. More steps than positions are none."""
    seq_len, text = rows.tokens.shape[1], torch.from_numpy(is_text_position(rows))
    masked, opened = counts(seq_len, min(num_sampling_steps, seq_len), grid)

    def score(numbers: np.ndarray) -> np.ndarray:
        x_0, is_text = sweep.tensor(rows.tokens[numbers]), text[numbers]
        drawn = [_masks(seed, row, masks_per_row, masked, seq_len) for row in numbers]
        found = []
        for each in range(masks_per_row):
            is_masked = torch.from_numpy(np.stack([masks[each] for _, masks in drawn]))
            taken = np.array([steps[each] for steps, _ in drawn])
            made = guess_masked(denoiser, x_0, is_masked.to(x_0.device), mask_id)
            nats = made.nats.sum(1) * torch.from_numpy(len(masked) * opened[taken] / masked[taken])
            hits, asked = (made.is_hit & is_text).sum(1), (is_masked & is_text).sum(1)
            found.append(torch.stack([nats, hits, asked], dim=1))
        return torch.stack(found, dim=1).numpy()

    return summarise(sweep.over(score, len(rows)), rows, story, seed, "upper")


def counts(seq_len: int, steps: int, grid: str) -> tuple[np.ndarray, np.ndarray]:
    """Before each step the masks that are left, and how many of them it opens."""
    masked, opened = [seq_len], []
    for taken in range(steps):
        opened.append(to_open(masked[-1], steps, taken, grid))
        masked.append(masked[-1] - opened[-1])
    return np.array(masked[:-1]), np.array(opened)


def _masks(seed: int, row: int, count: int, masked: np.ndarray, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Which step each mask is of, stratified over all of them, and the masks: bool[count, seq_len], places uniform."""
    rng = np.random.default_rng((seed, _STEP_DRAWS, row))
    half = count // REPLICATES
    spread = np.concatenate([(np.arange(half) + rng.random(half)) / half for _ in range(REPLICATES)])
    steps = (spread * len(masked)).astype(int)
    places = rng.random((count, seq_len)).argsort(axis=1).argsort(axis=1)
    return steps, np.asarray(places < masked[steps][:, None])
