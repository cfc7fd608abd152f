"""The network from CUDA graphs."""

import pytest
import torch

from ddlm.model import ModelConfig
from ddlm.model.captured import Captured, is_capturable
from ddlm.model.transformer import Denoiser


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, True),
        ({"time_conditioning": True}, True),
        ({"segment_mask": True}, False),
        ({"attention": "causal"}, False),
    ],
)
def test_a_network_is_captured_only_where_every_run_is_the_same_kernels(
    settings: dict[str, object], wanted: bool
) -> None:
    assert is_capturable(ModelConfig.model_validate(settings)) is wanted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.inference_mode()
def test_replayed_runs_equal_plain_ones_bit_for_bit_at_every_shape() -> None:
    network = Denoiser(ModelConfig(), vocab_size=100, seq_len=64).cuda().to(torch.bfloat16).eval()
    torch.nn.init.normal_(network.output.weight)
    captured = Captured(network)
    for rows in (1, 4, 1, 4, 4, 1, 1):
        ids = torch.randint(0, 101, (rows, 64), device="cuda")
        wanted = ids > 50
        assert torch.equal(captured.at(ids, wanted), network.at(ids, wanted))
    assert len(captured._graphs) == 2
