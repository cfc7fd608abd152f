"""The denoiser's contracts."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ddlm.model import ModelConfig
from ddlm.model.attention import rotary_table, rotate
from ddlm.model.transformer import Denoiser, train_flops_per_token

CONFIG = ModelConfig(d_model=32, num_layers=2, num_heads=2)


def perturbed(model: Denoiser) -> Denoiser:
    """Weights of a model that has learned something: no zeros left."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_at_first_every_token_is_about_equally_likely(tied: bool) -> None:
    model = Denoiser(CONFIG.model_copy(update={"tied_head": tied}), vocab_size=50, seq_len=16)
    logits = model(torch.randint(0, 51, (3, 16)))
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.randint(0, 50, (48,)))
    assert nats.item() == pytest.approx(math.log(50), rel=0.03 if tied else 1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_the_mask_is_an_input_and_never_an_output(tied: bool) -> None:
    model = Denoiser(CONFIG.model_copy(update={"tied_head": tied}), vocab_size=50, seq_len=16)
    assert model.embedding.num_embeddings == 51
    assert model(torch.full((1, 16), 50)).shape == (1, 16, 50)


def test_every_position_sees_every_other() -> None:
    model = perturbed(Denoiser(CONFIG, vocab_size=50, seq_len=8)).eval()
    ids = torch.arange(8)[None]
    changed = ids.clone()
    changed[0, 7] = 30
    assert (model(ids) - model(changed)).abs().amax(-1).min() > 0


def test_on_a_canvas_of_masks_the_model_knows_where_it_is() -> None:
    model = perturbed(Denoiser(CONFIG, vocab_size=50, seq_len=16)).eval()
    logits = model(torch.full((1, 16), 50))[0]
    assert (logits[1:] - logits[:-1]).abs().amax(-1).min() > 1e-4
    with torch.no_grad():
        model.start.zero_()
    lost = model(torch.full((1, 16), 50))[0]
    assert torch.allclose(lost, lost[:1].expand(16, 50), atol=1e-5)


def test_scores_depend_on_distance_alone() -> None:
    table = rotary_table(32, 8, 10000.0)
    query, key = torch.randn(2, 1, 1, 1, 8).unbind()
    rotated = [rotate(vector.expand(1, 1, 32, 8), table)[0, 0] for vector in (query, key)]
    score = rotated[0] @ rotated[1].T
    assert torch.allclose(score.diagonal(3), score[0, 3].expand(29), atol=1e-4)


def test_logits_of_some_positions_equal_those_positions_of_all() -> None:
    model = perturbed(Denoiser(CONFIG, vocab_size=50, seq_len=8)).eval()
    ids = torch.randint(0, 51, (2, 8))
    chosen = torch.rand(2, 8) < 0.5
    assert torch.allclose(model.logits(model.hidden(ids)[chosen]), model(ids)[chosen], atol=1e-6)


def test_the_flop_formula_matches_what_torch_counts() -> None:
    model = Denoiser(CONFIG, vocab_size=50, seq_len=16)
    ids = torch.randint(0, 51, (4, 16))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(ids)
    formula = train_flops_per_token(CONFIG, vocab_size=50, seq_len=16, masked_share=1.0) / 3 * ids.numel()
    assert counter.get_total_flops() == pytest.approx(formula)
