"""The sampler against enumeration and its contracts."""

import itertools

import pytest
import torch

from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.sampler import Draw, Step, choose, draw_tokens, keep_likely, masked_after, sample
from ddlm.diffusion.unmasking import POLICIES

PLAIN = {"temperature": 1.0, "top_p": 1.0}
EVEN = torch.zeros(1, 1, dtype=torch.long)


def draw(count: int, end_id: int = 0, forbidden: tuple[int, ...] = (), seed: int = 0, **settings: object) -> Draw:
    config = SamplingConfig(**{**PLAIN, **settings})  # type: ignore[arg-type]
    return Draw(config, seed, torch.arange(count), end_id, forbidden)


def joint_denoiser(joint: torch.Tensor) -> object:
    """The exact denoiser of a distribution over pairs: joint[a, b] = p(a, b). Mask id 3."""

    def denoise(ids: torch.Tensor) -> torch.Tensor:
        first = torch.stack([joint.sum(1), joint.sum(1), joint.sum(1), joint.sum(1)])
        first[:3] = joint.T
        second = torch.cat([joint, joint.sum(0, keepdim=True)])
        return torch.stack([first[ids[:, 1]], second[ids[:, 0]]], dim=1).log()

    return denoise


@pytest.mark.parametrize("unmasking", POLICIES)
def test_with_one_position_a_step_an_exact_denoiser_gives_the_data(unmasking: str) -> None:
    joint = torch.tensor([[0.05, 0.30, 0.05], [0.20, 0.02, 0.08], [0.10, 0.15, 0.05]])
    count = 20000
    start = torch.full((count, 2), 3)
    ids, calls = sample(joint_denoiser(joint), start, 3, draw(count, unmasking=unmasking, num_sampling_steps=2))  # type: ignore[arg-type]
    assert calls == 2
    seen = torch.zeros(3, 3)
    for a, b in itertools.product(range(3), repeat=2):
        seen[a, b] = ((ids[:, 0] == a) & (ids[:, 1] == b)).float().mean()
    assert torch.allclose(seen, joint, atol=0.012)


def noise_denoiser(vocab_size: int) -> object:
    weights = torch.randn(vocab_size + 1, vocab_size, generator=torch.Generator().manual_seed(3))

    def denoise(ids: torch.Tensor) -> torch.Tensor:
        return weights[ids] + weights[ids.roll(1, 1)]

    return denoise


@pytest.mark.parametrize("unmasking", POLICIES)
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_no_mask_is_left_what_stands_stays_and_forbidden_ids_do_not_come(unmasking: str, steps: int) -> None:
    start = torch.full((4, 12), 9)
    start[:, :3] = torch.tensor([1, 2, 4])
    seen: list[Step] = []
    settings = draw(4, forbidden=(0, 5), unmasking=unmasking, num_sampling_steps=steps)
    ids, calls = sample(noise_denoiser(9), start, 9, settings, seen.append)  # type: ignore[arg-type]
    assert calls == min(steps, 9) == len(seen) - 1
    assert (ids != 9).all()
    assert not torch.isin(ids[:, 3:], torch.tensor([0, 5])).any()
    assert torch.equal(ids[:, :3], start[:, :3])
    for before, after in itertools.pairwise(seen):
        kept = ~after.opened
        assert torch.equal(before.ids[kept], after.ids[kept])
        assert (before.ids[after.opened] == 9).all()


@pytest.mark.parametrize("unmasking", POLICIES)
def test_a_text_does_not_depend_on_its_neighbours_in_the_batch(unmasking: str) -> None:
    start = torch.full((5, 10), 9)
    start[1, :6] = 2
    together, _ = sample(noise_denoiser(9), start, 9, draw(5, unmasking=unmasking, num_sampling_steps=7))  # type: ignore[arg-type]
    for row in range(5):
        settings = draw(5, unmasking=unmasking, num_sampling_steps=7)
        alone = Draw(settings.config, 0, torch.tensor([row]), 0)
        ids, _ = sample(noise_denoiser(9), start[row : row + 1], 9, alone)  # type: ignore[arg-type]
        assert torch.equal(ids[0], together[row])


def test_seeds_matter() -> None:
    start = torch.full((1, 10), 9)
    first, _ = sample(noise_denoiser(9), start, 9, draw(1, seed=1))  # type: ignore[arg-type]
    second, _ = sample(noise_denoiser(9), start, 9, draw(1, seed=2))  # type: ignore[arg-type]
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("total", "steps"), [(10, 4), (3, 8), (7, 7), (256, 64), (5, 1)])
def test_the_grid_of_counts_is_even_and_ends_at_zero(total: int, steps: int) -> None:
    left = [total, *(masked_after(total, step, steps) for step in range(steps))]
    opened = [before - after for before, after in itertools.pairwise(left)]
    assert left[-1] == 0
    assert max(opened) - min(opened[: min(steps, total)]) <= 1


def test_ties_go_to_the_lower_position() -> None:
    is_masked = torch.tensor([[True, False, True, True]])
    assert choose(torch.zeros(1, 4), is_masked, torch.tensor([2])).tolist() == [[True, False, True, False]]


def test_rare_tokens_come_as_often_as_they_should() -> None:
    """In a race with the mask in float32 a token of probability 1e-4 comes too seldom; here there is no such race."""
    rows = 400_000
    logits = torch.tensor([0.9989, 1e-3, 1e-4]).log().expand(rows, 3)
    opened = torch.ones(rows, 1, dtype=torch.bool)
    ids = draw_tokens(logits, opened, 999, draw(rows))
    assert float((ids == 2).float().mean()) == pytest.approx(1e-4, rel=0.35)
    assert float((ids == 1).float().mean()) == pytest.approx(1e-3, rel=0.15)


def test_temperature_zero_takes_the_most_likely() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 2.0, 0.0]])
    assert draw_tokens(logits, torch.ones(2, 1, dtype=torch.bool), 0, draw(2, temperature=0.0)).tolist() == [1, 0]


def test_filters_keep_the_smallest_likely_set() -> None:
    scaled = torch.tensor([[0.5, 0.2, 0.25, 0.05]], dtype=torch.float64).log()
    nucleus = keep_likely(scaled, SamplingConfig(top_p=0.6))
    assert torch.isfinite(nucleus).tolist() == [[True, False, True, False]]
    top = keep_likely(scaled, SamplingConfig(top_k=3, top_p=1.0))
    assert torch.isfinite(top).tolist() == [[True, True, True, False]]
    alone = keep_likely(scaled, SamplingConfig(top_p=0.01))
    assert torch.isfinite(alone).tolist() == [[True, False, False, False]]


def test_confidence_leaves_the_end_for_last() -> None:
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 0] = 20.0
    logits[0, 1, 2] = 1.0
    seen: list[Step] = []
    start = torch.full((1, 3), 4)
    settings = draw(1, unmasking="confidence", num_sampling_steps=3, temperature=0.0)
    sample(lambda ids: logits, start, 4, settings, seen.append)
    assert [step.opened[0].nonzero().flatten().tolist() for step in seen[1:]] == [[1], [0], [2]] or [
        step.opened[0].nonzero().flatten().tolist() for step in seen[1:]
    ] == [[1], [2], [0]]
