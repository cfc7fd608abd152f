"""The denoiser's contracts."""

import importlib
import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ddlm.model import ModelConfig
from ddlm.model.device import lacks_compiler
from ddlm.model.transformer import Denoiser, count_parameters, modulated, train_flops_per_token

Build = Callable[..., Denoiser]
VOCAB_SIZE, SEQ_LEN = 50, 16


def drawn_ids(rows: int = 2, *, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB_SIZE + 1, (rows, SEQ_LEN), generator=torch.Generator().manual_seed(seed))


def changes(model: Denoiser, position: int, segments: Tensor | None = None) -> Tensor:
    """At which positions the logits change when the id at a position does."""
    ids = drawn_ids(1)
    other = ids.clone()
    other[0, position] = (ids[0, position] + 1) % VOCAB_SIZE
    return (model(ids, segments) - model(other, segments))[0].abs().amax(-1) > 1e-7


def gradients(model: Denoiser, ids: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(ids).square().mean(), list(model.parameters())))


@pytest.mark.parametrize("tied", [False, True])
def test_at_first_every_token_is_about_equally_likely(tied: bool) -> None:
    config = ModelConfig(d_model=32, num_layers=2, num_heads=2, tied_head=tied)
    model = Denoiser(config, vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN)
    nats = torch.nn.functional.cross_entropy(model(drawn_ids(3)).flatten(0, 1), torch.randint(0, VOCAB_SIZE, (48,)))
    assert nats.item() == pytest.approx(math.log(VOCAB_SIZE), rel=0.03 if tied else 1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_the_mask_is_an_input_and_never_an_output(tied: bool, build: Build) -> None:
    model = build(tied_head=tied)
    assert model.embedding.num_embeddings == VOCAB_SIZE + 1
    assert model(torch.full((1, SEQ_LEN), VOCAB_SIZE)).shape == (1, SEQ_LEN, VOCAB_SIZE)


def test_every_position_sees_every_other(build: Build) -> None:
    assert changes(build(), 7).all()


def test_a_causal_model_sees_nothing_of_what_comes_later(build: Build) -> None:
    assert changes(build(attention="causal"), 7).tolist() == [False] * 7 + [True] * 9


def test_a_block_causal_model_sees_its_own_block_and_those_before_it(build: Build) -> None:
    assert changes(build(attention="block_causal", block_size=4), 6).tolist() == [False] * 4 + [True] * 12


def test_segments_do_not_see_each_other(build: Build) -> None:
    segments = torch.tensor([[0] * 5 + [1] * 11])
    assert changes(build(), 3, segments).tolist() == [True] * 5 + [False] * 11
    assert changes(build(), 9, segments).tolist() == [False] * 5 + [True] * 11


def test_a_segment_mask_takes_its_borders_from_the_end_tokens_that_can_be_seen(build: Build) -> None:
    """A masked end token tells nothing: what lies behind it is seen, as far as anyone knows it is the same story."""
    model = build(segment_mask=True)
    ids = torch.arange(1, 17)[None] % VOCAB_SIZE
    ids[0, 4] = model.end_id
    borders = torch.tensor([[0] * 5 + [1] * 11])
    assert torch.equal(model(ids), model(ids, borders))
    ids[0, 4] = VOCAB_SIZE
    assert torch.equal(model(ids), model(ids, torch.zeros_like(borders)))


def test_a_segment_in_a_row_is_what_it_is_alone(build: Build) -> None:
    model, ids = build(), drawn_ids(1)
    segments = torch.tensor([[0] * 5 + [1] * 11])
    assert torch.allclose(model(ids, segments)[:, 5:], model(ids[:, 5:]), atol=1e-5)


def test_on_a_canvas_of_masks_the_model_knows_where_it_is(build: Build) -> None:
    model = build()
    logits = model(torch.full((1, SEQ_LEN), VOCAB_SIZE))[0]
    assert (logits[1:] - logits[:-1]).abs().amax(-1).min() > 1e-4
    with torch.no_grad():
        model.start.zero_()
    lost = model(torch.full((1, SEQ_LEN), VOCAB_SIZE))[0]
    assert torch.allclose(lost, lost[:1].expand(SEQ_LEN, VOCAB_SIZE), atol=1e-5)


def test_logits_of_some_positions_equal_those_positions_of_all(build: Build) -> None:
    model, ids = build(), drawn_ids()
    chosen = torch.rand(2, SEQ_LEN) < 0.5
    assert torch.allclose(model.logits(model.hidden(ids)[chosen]), model(ids)[chosen], atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_the_head_on_the_stream_under_a_soft_cap(tied: bool, build: Build) -> None:
    model, ids = build(tied_head=tied, logit_soft_cap=0.5), drawn_ids()
    bare = model.hidden(ids) @ model.head_weight.T
    assert bare.abs().max() > 0.5
    assert torch.allclose(model(ids), 0.5 * torch.tanh(bare / 0.5), atol=1e-6)


def test_squared_relu_is_the_feed_forward_that_it_says(build: Build) -> None:
    feed_forward = build(activation="relu2").blocks[0].feed_forward
    x = torch.randn(1, 3, 32)
    expected = torch.clamp(x @ feed_forward.up.weight.T, min=0) ** 2 @ feed_forward.down.weight.T
    assert torch.allclose(feed_forward(x), expected, atol=1e-6)


def test_a_fresh_model_with_time_equals_one_without(build: Build) -> None:
    plain = build()
    timed = Denoiser(
        plain.config.model_copy(update={"time_conditioning": True}), vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN
    )
    missing = timed.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["time.project.weight", "blocks.0.modulation.weight", "blocks.1.modulation.weight"]
    assert torch.equal(timed(drawn_ids()), plain(drawn_ids()))


def test_a_fresh_model_with_time_can_learn_everywhere() -> None:
    """Products of two zeros would not. Zeros in front of zeros only wait for a step."""
    config = ModelConfig(d_model=32, num_layers=2, num_heads=2, time_conditioning=True)
    model = Denoiser(config, vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(4):
        torch.nn.functional.cross_entropy(model(drawn_ids()).flatten(0, 1), drawn_ids(seed=1).flatten() % 7).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert [name for name, weight in model.state_dict().items() if torch.equal(weight, before[name])] == []


def test_time_shifts_and_scales_what_enters_a_branch_and_gates_what_leaves_it() -> None:
    x, (shift, scale, gate) = torch.randn(2, 3, 8), torch.randn(3, 2, 1, 8)
    entered = modulated(lambda y: y**2, x, torch.cat([shift, scale, gate], dim=-1))
    assert torch.allclose(entered, (1 + gate) * (x + scale * x + shift) ** 2, atol=1e-5)


def test_time_is_the_masked_share_of_each_row(build: Build) -> None:
    shares = []
    model = build(time_conditioning=True)
    model.time.register_forward_pre_hook(lambda module, given: shares.append(given[0]))
    ids = drawn_ids(3) % VOCAB_SIZE
    ids[1, :4] = ids[2] = VOCAB_SIZE
    model(ids)
    assert shares[0].tolist() == [0.0, 0.25, 1.0]


def test_time_reaches_positions_that_see_no_mask(build: Build) -> None:
    """A mask in another segment of the row changes the share alone."""
    segments = torch.tensor([[0] * 5 + [1] * 11])
    ids = drawn_ids(1) % VOCAB_SIZE
    masked = ids.clone()
    masked[0, 5:] = VOCAB_SIZE
    for timed in (False, True):
        model = build(time_conditioning=timed)
        assert torch.equal(model(ids, segments)[:, :5], model(masked, segments)[:, :5]) != timed


def saved_bytes(model: Denoiser, ids: Tensor) -> int:
    """Of the activations that a forward pass keeps for the backward pass."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(ids)
    return sum(kept.values())


def test_checkpointing_changes_memory_and_not_gradients(build: Build) -> None:
    model = build(num_layers=4, dropout=0.2, time_conditioning=True).train()
    ids = drawn_ids()
    results, memory = [], []
    for checkpointing in (False, True):
        model.checkpointing = checkpointing
        torch.manual_seed(0)
        results.append(gradients(model, ids))
        memory.append(saved_bytes(model, ids))
    assert all(torch.equal(kept, recomputed) for kept, recomputed in zip(*results, strict=True))
    assert memory[1] < memory[0] / 4


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`ddlm.model.transformer` without run-time checks of shapes: torch can't trace those."""
    finders = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("jaxtyping")]
    monkeypatch.setattr(sys, "meta_path", finders)
    for name in [name for name in sys.modules if name.startswith("ddlm.model")]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("ddlm.model.transformer")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about itself
@pytest.mark.skipif(bool(lacks_compiler()), reason="torch can't compile here")
@pytest.mark.parametrize("given", [{}, {"time_conditioning": True, "activation": "relu2"}])
def test_compiled_blocks_compute_what_they_did_and_share_one_compilation(
    given: dict[str, Any], unchecked: Any, build: Build
) -> None:
    model, ids = build(num_layers=10, **given).train(), drawn_ids()
    compiled = unchecked.Denoiser(model.config, vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN)
    compiled.load_state_dict(model.state_dict())
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compiled.compile_blocks()
    assert torch.allclose(compiled(ids), model(ids), atol=1e-5)
    for ours, theirs in zip(gradients(compiled, ids), gradients(model, ids), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


COMBINATIONS = [
    {"activation": activation, "tied_head": tied, "time_conditioning": timed, "d_ff": d_ff}
    for activation, tied, timed, d_ff in itertools.product(
        ["swiglu", "relu2"], [False, True], [False, True], [None, 40]
    )
]


@pytest.mark.parametrize("given", COMBINATIONS)
def test_the_formula_counts_the_parameters_that_there_are(given: dict[str, Any], build: Build) -> None:
    model = build(**given)
    assert count_parameters(model.config, vocab_size=VOCAB_SIZE) == model.num_parameters()


@pytest.mark.parametrize("masked_share", [0.25, 1.0])
@pytest.mark.parametrize("given", [{}, {"activation": "relu2"}, {"time_conditioning": True}])
def test_the_flop_formula_matches_what_torch_counts(given: dict[str, Any], masked_share: float, build: Build) -> None:
    model, ids = build(num_layers=3, **given), drawn_ids(4)
    is_masked = torch.arange(SEQ_LEN).expand_as(ids) < masked_share * SEQ_LEN
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.logits(model.hidden(ids)[is_masked]).sum().backward()
    per_token = train_flops_per_token(model.config, vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN, masked_share=masked_share)
    # The formula lets time features have a gradient as inputs, which they do not need.
    assert counter.get_total_flops() / ids.numel() == pytest.approx(
        per_token, rel=0.03 if given.get("time_conditioning") else 1e-9
    )
