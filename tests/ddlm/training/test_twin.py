"""The autoregressive twin through the train stage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddlm.artifacts import Artifact
from ddlm.data.shards import read_rows
from ddlm.diffusion import ObjectiveConfig
from ddlm.diffusion.noise import draw_noise
from ddlm.evaluation.likelihood import exact
from ddlm.model import ModelConfig
from ddlm.model.folder import load_model
from ddlm.model.transformer import Denoiser
from ddlm.training import validation
from ddlm.training.step import MaskedLoss, parts_of

Train = Callable[..., Path]
TWIN: dict[str, Any] = {"objective": {"kind": "autoregressive"}, "model": {"attention": "causal"}}


def logged(metrics: list[tuple[int, dict[str, float]]], name: str) -> list[float]:
    return [values[name] for _, values in metrics if name in values]


def test_training_lowers_the_loss_and_leaves_a_twin_that_scores_what_validation_said(
    train: Train, recorder: Any, tiny_artifacts: dict[str, Artifact]
) -> None:
    folder = train("run", recorder, steps=48, learning_rate=1e-2, precision="float32", **TWIN)
    losses = logged(recorder.metrics, "train/autoregressive_nats")
    assert losses[-1] < losses[0] - 0.5
    assert not [name for _, values in recorder.metrics for name in values if "mask_rate" in name], "it has none"
    measured = logged(recorder.metrics, "val/nll_nats")
    assert measured[-1] < measured[0]
    model, config = load_model(folder / "output")
    assert model.is_autoregressive
    assert config.objective["kind"] == "autoregressive"
    rows = read_rows(tiny_artifacts["shards"].path, "validation", limit=validation.ROWS)
    assert exact(model.at, rows, seed=0).nll_nats == pytest.approx(measured[-1], rel=1e-4)


def test_the_loss_is_the_exact_likelihood_a_position_and_its_nats_stand_at_their_positions() -> None:
    config = ModelConfig(d_model=16, num_layers=1, num_heads=2, attention="causal")
    network = Denoiser(config, vocab_size=9, seq_len=8, is_autoregressive=True)
    with torch.no_grad():
        torch.nn.init.normal_(network.output.weight)
    x_0, twin = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (4, 8))), ObjectiveConfig(**TWIN["objective"])
    noise = draw_noise(twin, seed=0, step=0, batch_size=4, seq_len=8)
    wanted = -network(x_0).log_softmax(-1).gather(2, x_0[..., None])[..., 0]
    parts = parts_of(x_0, noise, twin, slice(0, 4), accumulation=2)
    results = [MaskedLoss(network)(part) for part in parts]
    assert float(sum(loss.detach() for loss, _, _ in results)) == pytest.approx(float(wanted.mean().detach()))
    torch.testing.assert_close(torch.cat([nats for _, nats, _ in results]), wanted.detach().flatten())
    assert all((part.bound_weight == 1).all() for part in parts)
