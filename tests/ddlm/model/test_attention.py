"""What positions may see, and that every way of computing attention computes the same."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from ddlm.model import ModelConfig
from ddlm.model.attention import (
    Mask,
    attend,
    block_mask,
    dense_mask,
    explicit_attention,
    make_mask,
    rotary_table,
    rotate,
    segments_of,
    starts_of,
)

KINDS: list[dict[str, Any]] = [{}, {"attention": "causal"}, {"attention": "block_causal", "block_size": 4}]
LENGTH = 16


def config(**given: Any) -> ModelConfig:
    return ModelConfig(d_model=32, num_layers=2, num_heads=2, **given)


def projections(length: int = LENGTH, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as the network has them: queries and keys of root-mean-square 1."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(3, 2, 2, length, 64, generator=generator)
    normed = drawn / drawn.square().mean(-1, keepdim=True).sqrt()
    return normed[0], normed[1], drawn[2]


def reference(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """Attention by its definition, in float64."""
    scores = torch.einsum("bhqd,bhkd->bhqk", queries.double(), keys.double()) / queries.shape[-1] ** 0.5
    weights = scores.exp() * seen
    return (weights / weights.sum(-1, keepdim=True)) @ values.double()


def brute_force(kind: dict[str, Any], segments: Tensor) -> Tensor:
    """What sees what, position by position."""
    rows, length = segments.shape
    size = {"causal": 1, "block_causal": kind.get("block_size", 1)}.get(kind.get("attention", ""), length)
    seen = torch.zeros(rows, 1, length, length, dtype=torch.bool)
    for row, query, key in torch.cartesian_prod(torch.arange(rows), torch.arange(length), torch.arange(length)):
        end_of_block = (query // size + 1) * size
        seen[row, 0, query, key] = key < end_of_block and segments[row, query] == segments[row, key]
    return seen


SEGMENTS = torch.tensor([[0] * 5 + [1] * 11, [0] * 16])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("segments", [None, SEGMENTS])
def test_every_kernel_computes_attention_over_what_is_visible(kind: dict[str, Any], segments: Tensor | None) -> None:
    ids = torch.zeros(2, LENGTH, dtype=torch.long)
    mask = make_mask(config(**kind).visible_block, ids, segments)
    drawn = projections()
    expected = reference(*drawn, brute_force(kind, torch.zeros_like(ids) if segments is None else segments))
    assert mask is None or isinstance(mask, Tensor)
    assert torch.allclose(attend(*drawn, mask).double(), expected, atol=1e-5)
    assert torch.allclose(explicit_attention(*drawn, mask).double(), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("block", "kind"), [(LENGTH, KINDS[0]), (1, KINDS[1]), (4, KINDS[2])])
def test_blocks_for_flex_attention_hide_what_the_table_hides(block: int, kind: dict[str, Any]) -> None:
    drawn = projections()
    seen = dense_mask(block, SEGMENTS)
    assert torch.equal(seen, brute_force(kind, SEGMENTS))
    with torch.no_grad():
        mixed = flex_attention(*drawn, block_mask=block_mask(block, SEGMENTS))
    assert isinstance(mixed, Tensor)
    assert torch.allclose(mixed.double(), reference(*drawn, seen), atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_flex_attention_equals_the_table_on_cuda_with_its_gradients(kind: dict[str, Any]) -> None:
    segments = SEGMENTS.repeat_interleave(16, dim=1).cuda()
    drawn = [tensor.cuda().requires_grad_() for tensor in projections(256)]
    blocks = make_mask(config(**kind).visible_block, segments, segments)
    assert not isinstance(blocks, Tensor)
    table = brute_force(kind, segments.cpu()).cuda()
    results = [torch.autograd.grad(attend(*drawn, mask).square().sum(), drawn) for mask in (blocks, table)]
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=2e-2)


def test_bidirectional_attention_needs_no_mask_and_every_other_needs_one() -> None:
    ids = torch.zeros(2, LENGTH, dtype=torch.long)
    masks: list[Mask] = [make_mask(config(**kind).visible_block, ids, None) for kind in KINDS]
    assert [mask is None for mask in masks] == [True, False, False]


def relative_error(ours: Tensor, exact: Tensor) -> float:
    return float(((ours.double() - exact).norm() / exact.norm()).detach())


@pytest.mark.parametrize(("norm_weight", "bound"), [(1.0, 0.006), (2.0, 0.013)])
def test_written_out_in_bfloat16_results_and_gradients_are_off_by_the_documented_share(
    norm_weight: float, bound: float
) -> None:
    queries, keys, values = projections(256)
    rounded = [tensor.bfloat16().requires_grad_() for tensor in (norm_weight * queries, norm_weight * keys, values)]
    exact = reference(*rounded, torch.ones(256, 256))
    ours = explicit_attention(*rounded, None)
    assert relative_error(ours, exact) < bound
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((mixed * direction).sum(), rounded) for mixed in (ours, exact)]
    assert max(relative_error(a, b.double()) for a, b in zip(*gradients, strict=True)) < bound


@pytest.mark.parametrize(
    ("length", "dtype", "trains", "is_explicit"),
    [
        (512, torch.bfloat16, True, True),
        (513, torch.bfloat16, True, False),
        (512, torch.float32, True, False),
        (512, torch.bfloat16, False, False),
    ],
)
def test_attention_is_written_out_in_training_for_short_rows_in_bfloat16(
    length: int, dtype: torch.dtype, trains: bool, is_explicit: bool
) -> None:
    drawn = [tensor.to(dtype) for tensor in projections(length)]
    with torch.set_grad_enabled(trains):
        ours = attend(*drawn, None)
    assert torch.equal(ours, explicit_attention(*drawn, None)) == is_explicit


def test_an_end_token_is_the_last_of_its_segment() -> None:
    ids = torch.tensor([[5, 6, 0, 7, 0, 8, 9], [0, 0, 4, 4, 4, 4, 4]])
    segments = segments_of(ids, end_id=0)
    assert segments.tolist() == [[0, 0, 0, 1, 1, 2, 2], [0, 1, 2, 2, 2, 2, 2]]
    assert starts_of(segments).nonzero().tolist() == [[0, 0], [0, 3], [0, 5], [1, 0], [1, 1], [1, 2]]


def test_scores_depend_on_distance_alone() -> None:
    table = rotary_table(32, 8, 10000.0)
    query, key = torch.randn(2, 1, 1, 1, 8).unbind()
    rotated = [rotate(vector.expand(1, 1, 32, 8), table)[0, 0] for vector in (query, key)]
    score = rotated[0] @ rotated[1].T
    assert torch.allclose(score.diagonal(3), score[0, 3].expand(29), atol=1e-4)
