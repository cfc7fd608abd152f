"""The likelihood bound by Monte Carlo: hide some tokens, ask for them, weigh what it cost.

Source: the negative ELBO of masked diffusion in its any-order form (Ou et al., RADD, 2024). Of m tokens in question
hide k, drawn uniformly from 1 … m, and take m / k times the sum over them of -log p(token | what is visible).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddlm.diffusion.view import Denoiser


@dataclass(frozen=True, eq=False)
class Guess:
    """What a network made of the positions it was asked for: -log p of the true token, float64, and whether it was the
    most likely one; 0 and False elsewhere. Both [b, l], on the CPU, since not every device has float64."""

    nats: Tensor
    is_hit: Tensor


def guess_masked(denoiser: Denoiser, x_0: Tensor, is_masked: Tensor, mask_id: int) -> Guess:
    """Hide the masked positions and ask for them."""
    return guess(denoiser, torch.where(is_masked, mask_id, x_0), x_0, is_masked)


def guess(denoiser: Denoiser, ids: Tensor, x_0: Tensor, wanted: Tensor) -> Guess:
    """Run the network once over `ids` and compare what it says of the wanted positions with the truth."""
    logits, targets, place = denoiser(ids, wanted), x_0[wanted], wanted.cpu()
    nats = torch.zeros(x_0.shape, dtype=torch.float64)
    nats[place] = F.cross_entropy(logits, targets, reduction="none").cpu().double()
    is_hit = torch.zeros_like(place)
    is_hit[place] = (logits.argmax(-1) == targets).cpu()
    return Guess(nats, is_hit)


def any_order_estimate(nats: Tensor, is_masked: Tensor) -> Tensor:
    """[b], unbiased for the any-order bound of each row when the number of masks is uniform over 1 … l."""
    return nats.sum(1) * is_masked.shape[1] / is_masked.sum(1)


def exact_k_masks(rng: np.random.Generator, count: int, seq_len: int) -> np.ndarray:
    """bool[count, seq_len]: sizes stratified over 1 … seq_len, so that their mixture is uniform; places uniform."""
    sizes = np.floor((np.arange(count) + rng.random(count)) / count * seq_len) + 1
    places = rng.random((count, seq_len)).argsort(axis=1).argsort(axis=1)
    return np.asarray(places < sizes[:, None])


@torch.no_grad()
def any_order_nats(
    denoiser: Denoiser, x_0: Int[Tensor, "b l"], is_scored: Bool[Tensor, "b l"], *, mask_id: int, masks: int, seed: int
) -> Float[Tensor, "b masks"]:
    """Estimates of each row's bound on -log p(scored tokens | the others), one for each of `masks` random masks.

    The masks depend on the seed and the number of the row.
    """
    estimates, scored = [], is_scored.cpu()
    for is_masked in masks_of_scored(scored.numpy(), masks, seed).unbind(1):
        nats = guess_masked(denoiser, x_0, is_masked.to(x_0.device), mask_id).nats.sum(1)
        estimates.append(nats * scored.sum(1) / is_masked.sum(1))
    return torch.stack(estimates, dim=1)


def masks_of_scored(is_scored: np.ndarray, masks: int, seed: int) -> Bool[Tensor, "b masks l"]:
    """Masks within the scored positions of each row, their sizes stratified over 1 … all of them."""
    found = np.zeros((len(is_scored), masks, is_scored.shape[1]), dtype=bool)
    for row, scored in enumerate(is_scored):
        rng = np.random.default_rng((seed, row))
        found[row][:, scored] = exact_k_masks(rng, masks, int(scored.sum()))
    return torch.from_numpy(found)
