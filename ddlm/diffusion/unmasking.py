"""Unmasking policies: scores that decide which masked positions are opened first."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddlm import draws

END_PENALTY = 1000.0
"""Larger than any difference of log-probabilities: an end token is opened after everything else."""


@dataclass(frozen=True)
class View:
    """What a policy may look at before a step.

    logits: of every position. sample: each row's sample number. step: the sampler's step. end_id: the end token.
    """

    logits: Float[Tensor, "b l v"]
    sample: Int[Tensor, " b"]
    step: int
    seed: int
    end_id: int


Policy = Callable[[View], Float[Tensor, "b l"]]
"""Scores in any order of magnitude; larger is opened first, ties go to the lower position."""


def random(view: View) -> Float[Tensor, "b l"]:
    """A random order: ancestral sampling of the masked process with an even grid of counts."""
    _, length, _ = view.logits.shape
    sample = view.sample[:, None]
    position = torch.arange(length, device=sample.device)[None]
    step = torch.full_like(position, view.step)
    words: Tensor = draws.position_words(view.seed, sample, step, position)
    return words.double()


def confidence(view: View) -> Float[Tensor, "b l"]:
    """The most certain position first, by the log-probability of its best token.

    A position that wants the end token waits until no other is left: its near-certainty says nothing about the story
    and would fix the length before anything is written.
    Source: Nie et al., LLaDA, 2025 (low-confidence remasking), with positions chosen before tokens are drawn.
    """
    best = torch.log_softmax(view.logits, dim=-1).max(dim=-1)
    return best.values - END_PENALTY * (best.indices == view.end_id)


POLICIES: dict[str, Policy] = {"confidence": confidence, "random": random}
