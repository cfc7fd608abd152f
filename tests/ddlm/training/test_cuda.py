"""Training steps on a GPU."""

import pytest
import torch

from ddlm.bench.train import trainer_of
from ddlm.experiment import load_experiment

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("compile", ["off", "on"])
def test_between_two_log_points_nobody_waits_for_the_device(compile: str) -> None:
    experiment = load_experiment(
        "configs/tiny.toml", {"training.compile": compile, "training.accumulation": 2, "training.ema_decay": 0.9}
    )
    trainer, state = trainer_of(experiment)
    batches = trainer.loader.batches(0, trainer.device)
    rows = [next(batches) for _ in range(8)]
    for x_0 in rows[:4]:
        trainer.train_step(state, x_0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for x_0 in rows[4:]:
            trainer.train_step(state, x_0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.step == 8


def test_a_batch_in_parts_and_at_once_gives_the_same_loss() -> None:
    losses = []
    for accumulation in (1, 4):
        overrides = {"training.precision": "float32", "training.accumulation": accumulation}
        trainer, state = trainer_of(load_experiment("configs/tiny.toml", overrides))
        batches = trainer.loader.batches(0, trainer.device)
        for _ in range(3):
            trainer.train_step(state, next(batches))
        losses.append(state.meter.take(trainer.ranks, "loss", 1.0)["train/nll_nats"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
