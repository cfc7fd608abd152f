"""Blocks that reuse keys and values against the full forward pass."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.sampler import Draw, denoise
from ddlm.model import ModelConfig
from ddlm.model.reuse import BlockReuse, reuse_of
from ddlm.model.transformer import Denoiser

Build = Callable[..., Denoiser]
MASK, LENGTH = 50, 16
EXACT: list[dict[str, Any]] = [
    {"attention": "causal"},
    {"attention": "block_causal", "block_size": 2, "tied_head": True},
    {"attention": "block_causal", "block_size": 4, "activation": "relu2", "logit_soft_cap": 2.0},
]


def prompted(*lengths: int) -> Tensor:
    """A canvas of masks behind prompts of these lengths."""
    drawn = torch.randint(0, MASK, (len(lengths), LENGTH), generator=torch.Generator().manual_seed(0))
    return torch.where(torch.arange(LENGTH) < torch.tensor(lengths)[:, None], drawn, MASK)


def in_pairs(ids: Tensor, block: slice) -> list[Tensor]:
    """Two positions of the block at a time, from its end."""
    positions = torch.arange(ids.shape[1])
    starts = reversed(range(block.start, block.stop, 2))
    return [(ids == MASK) & (positions >= start) & (positions < min(start + 2, block.stop)) for start in starts]


@torch.no_grad()
def errors(network: Denoiser, ids: Tensor, blocks: list[slice]) -> list[list[float]]:
    """Largest differences from the full forward at every step of every block, on a canvas that is written meanwhile."""
    reuse, ids, found = BlockReuse(network), ids.clone(), []
    for number, block in enumerate(blocks):
        denoiser, steps = reuse(ids.clone(), block), []
        for wanted in in_pairs(ids, block):
            full = network.at(ids, wanted)
            steps.append(float((denoiser(ids, wanted) - full).abs().amax()))
            ids[wanted] = (full.argmax(-1) + number) % MASK
        found.append(steps)
    return found


def blocks_of(size: int, start: int = 0, length: int = LENGTH) -> list[slice]:
    return [slice(at, min(at + size, length)) for at in range(start, length, size)]


def test_logits_at_wanted_positions_are_those_of_the_full_forward_row_by_row(build: Build) -> None:
    network, ids = build().bfloat16(), prompted(0, 3)
    wanted = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    logits = network.at(ids, wanted)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, network(ids)[wanted])


@pytest.mark.parametrize("given", EXACT)
@pytest.mark.parametrize("size", [4, 8, 12, LENGTH])
def test_causal_and_block_causal_networks_say_with_reuse_what_they_say_without(
    given: dict[str, Any], size: int, build: Build
) -> None:
    """12 does not divide the canvas: the last block is shorter."""
    network = build(**given)
    assert max(map(max, errors(network, prompted(0, 3, 1), blocks_of(size)))) < 1e-5


@pytest.mark.parametrize("given", EXACT)
def test_blocks_that_a_prompt_fills_are_caught_up_with(given: dict[str, Any], build: Build) -> None:
    assert max(map(max, errors(build(**given), prompted(8, 15, 11), blocks_of(4, start=8)))) < 1e-5


def test_a_canvas_that_ends_inside_a_block_of_the_network_is_exact_too(build: Build) -> None:
    network = build(attention="block_causal", block_size=4)
    assert max(map(max, errors(network, prompted(0, 3)[:, :14], blocks_of(4, length=14)))) < 1e-5


@pytest.mark.parametrize("given", EXACT)
@pytest.mark.parametrize("unmasking", ["random", "confidence", "entropy_bound"])
def test_a_sampler_writes_with_exact_reuse_what_it_writes_without(
    given: dict[str, Any], unmasking: str, build: Build
) -> None:
    network, ids = build(**given), prompted(0, 3, 9)
    config = SamplingConfig(unmasking=unmasking, num_sampling_steps=8, block_size=4, temperature=1.0, top_p=1.0)  # type: ignore[arg-type]
    draw = Draw(config, 0, torch.arange(3), end_id=0)
    plain = [step.ids for step in denoise(network.at, ids, MASK, draw)]
    reused = [step.ids for step in denoise(network.at, ids, MASK, draw, denoiser_of=BlockReuse(network))]
    assert len(plain) > 4
    assert not (plain[-1] == MASK).any()
    assert torch.equal(torch.stack(plain), torch.stack(reused))


def test_the_approximation_is_exact_at_the_first_step_of_every_block_and_not_later(build: Build) -> None:
    found = errors(build(), prompted(0, 3, 1), blocks_of(4))
    assert max(steps[0] for steps in found) < 1e-5
    assert min(step for steps in found for step in steps[1:]) > 1e-4


def test_the_approximation_is_exact_when_the_block_is_the_canvas(build: Build) -> None:
    assert max(map(max, errors(build(), prompted(0, 3, 1), [slice(0, LENGTH)]))) < 1e-5


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        ({"attention": "block_causal", "block_size": 4}, [12, 4, 8, 4]),
        ({"attention": "causal"}, [12, 4, 8, 4]),
        ({}, [16, 4, 16, 4]),
    ],
)
def test_after_the_first_step_of_a_block_its_positions_alone_are_computed(
    given: dict[str, Any], computed: list[int], build: Build
) -> None:
    network, positions = build(**given), []
    reuse, ids = BlockReuse(network), prompted(8, 9)
    network.norm.register_forward_pre_hook(lambda module, inputs: positions.append(inputs[0].shape[1]))
    for block in blocks_of(4, start=8):
        denoiser = reuse(ids, block)
        for wanted in in_pairs(ids, block):
            denoiser(ids, wanted)
    assert positions == computed


@pytest.mark.parametrize("given", [EXACT[2], {}])
def test_a_network_in_bfloat16_keeps_its_keys_in_bfloat16(given: dict[str, Any], build: Build) -> None:
    network, ids = build(**given).bfloat16(), prompted(4, 7)
    reuse, block = BlockReuse(network), slice(4, 8)
    denoiser = reuse(ids, block)
    for wanted in in_pairs(ids, block):
        logits = denoiser(ids, wanted)
        assert logits.dtype == torch.float32
        assert torch.allclose(logits, network.at(ids, wanted), atol=0.1)
    assert reuse.kept is not None
    assert reuse.kept.dtype == torch.bfloat16


def test_logits_are_memory_that_the_caller_may_change(build: Build) -> None:
    network, ids = build(attention="causal"), prompted(0, 0)
    wanted = in_pairs(ids, slice(0, 4))[0]
    denoiser = BlockReuse(network)(ids, slice(0, 4))
    first = denoiser(ids, wanted)
    expected = first.clone()
    first.fill_(7.0)
    assert torch.equal(denoiser(ids, wanted), expected)


@pytest.mark.parametrize(
    ("given", "block_size", "kind"),
    [
        ({}, 5, "approximate"),
        ({"attention": "causal"}, 5, "exact"),
        ({"attention": "block_causal", "block_size": 4}, 4, "exact"),
        ({"attention": "block_causal", "block_size": 4}, 12, "exact"),
        ({"attention": "block_causal", "block_size": 4}, 6, None),
        ({"attention": "block_causal", "block_size": 4}, 2, None),
        ({"attention": "causal", "segment_mask": True}, 4, None),
        ({"segment_mask": True}, 4, None),
        ({"time_conditioning": True}, 4, None),
    ],
)
def test_what_reuse_is_depends_on_what_positions_see(given: dict[str, Any], block_size: int, kind: str | None) -> None:
    assert reuse_of(ModelConfig(**given), block_size) == kind


@pytest.mark.parametrize("given", [EXACT[2], {}])
@pytest.mark.parametrize("following", [slice(4, 8), slice(0, 4)])
def test_a_second_canvas_or_a_step_back_is_refused(given: dict[str, Any], following: slice, build: Build) -> None:
    """What was kept belongs to other tokens."""
    reuse, ids = BlockReuse(build(**given)), prompted(0, 0)
    reuse(ids, slice(4, 8))
    with pytest.raises(AssertionError, match="of one canvas, from left to right"):
        reuse(ids, following)


@pytest.mark.parametrize("block", [slice(0, 6), slice(2, 4)])
def test_a_block_that_cuts_one_of_the_network_is_refused(block: slice, build: Build) -> None:
    reuse = BlockReuse(build(attention="block_causal", block_size=4))
    with pytest.raises(AssertionError, match="see reuse_of"):
        reuse(prompted(0, 0), block)


@pytest.mark.parametrize("given", [{"segment_mask": True}, {"time_conditioning": True}])
def test_a_network_whose_keys_depend_on_the_whole_row_is_refused(given: dict[str, Any], build: Build) -> None:
    with pytest.raises(AssertionError, match="see reuse_of"):
        BlockReuse(build(**given))
