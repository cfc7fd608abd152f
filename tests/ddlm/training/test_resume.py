"""Checkpoints, and that an interrupted run ends with the bits of an uninterrupted one."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ddlm.artifacts import Artifact, RunLog, Workspace
from ddlm.config import UserError
from ddlm.experiment import Experiment
from ddlm.training import checkpoint, loop
from ddlm.training import stage as train_stage


class KilledError(Exception):
    """Stands for kill -9: nothing after it runs."""


def run(artifacts: dict[str, Artifact], experiment: Experiment, folder: Path, log: RunLog, **training: Any) -> bytes:
    """Train into `folder`. Returns the bytes of the weights."""
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    (folder / "scratch").mkdir(exist_ok=True)
    inputs = {name: artifacts[name].path for name in ("tokenizer", "shards")}
    train_stage.build(
        Workspace(inputs, output, folder / "scratch", log),
        seed=experiment.seed,
        model=experiment.model.model_copy(update={"dropout": 0.1}),
        objective=experiment.objective,
        training=experiment.training.model_copy(update=training),
        source={},
    )
    return (output / "model.safetensors").read_bytes()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("killed_after", [2, 7, 11])
def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(
    tiny_artifacts: dict[str, Artifact], tiny: Experiment, tmp_path: Path, recorder: Any,
    monkeypatch: pytest.MonkeyPatch, killed_after: int, optimizer: str,
) -> None:  # fmt: skip
    settings = {"optimizer": optimizer, "ema_decay": 0.9, "accumulation": 2}
    whole = run(tiny_artifacts, tiny, tmp_path / "whole", recorder, **settings)
    step = loop.Trainer.train_step

    def killed(self: loop.Trainer, state: loop.TrainState, x_0: torch.Tensor) -> dict[str, float]:
        if state.step == killed_after:
            raise KilledError
        return step(self, state, x_0)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "train_step", killed)
        with pytest.raises(KilledError):
            run(tiny_artifacts, tiny, tmp_path / "cut", recorder, **settings)
    steps_before = len(recorder.metrics)
    assert run(tiny_artifacts, tiny, tmp_path / "cut", recorder, **settings) == whole
    first_again = recorder.metrics[steps_before][0]
    assert first_again > killed_after // tiny.training.save_every_steps * tiny.training.save_every_steps
    curves = [(tmp_path / name / "output" / "curve.csv").read_bytes() for name in ("whole", "cut")]
    assert curves[0] == curves[1]


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, {"model": {"w": torch.full((3,), float(step))}}, {"curve": []})
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step-00000002", "step-00000003"]
    damaged = tmp_path / "step-00000003" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    newest = checkpoint.newest(tmp_path)
    assert newest
    assert newest.name == "step-00000002"
    assert "step-00000003 is damaged" in caplog.text
    tensors, state = checkpoint.load(newest)
    assert tensors["model"]["w"].tolist() == [2, 2, 2]
    assert state["step"] == 2


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, {"model": {"w": torch.ones(3)}}, {})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "seal", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 2, {"model": {"w": torch.ones(3)}}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_resume_from_goes_on_and_refuses_another_experiment(
    tiny_artifacts: dict[str, Artifact], tiny: Experiment, tmp_path: Path, recorder: Any
) -> None:
    run(tiny_artifacts, tiny, tmp_path / "first", recorder)
    last = checkpoint.newest(tmp_path / "first" / "scratch")
    assert last
    recorder.metrics.clear()
    run(tiny_artifacts, tiny, tmp_path / "more", recorder, steps=16, resume_from=str(last))
    assert recorder.metrics[0][0] > 12
    with pytest.raises(UserError, match=r"training differ from the checkpoint's; only training.steps"):
        run(tiny_artifacts, tiny, tmp_path / "other", recorder, batch_size=4, resume_from=str(last))


def test_training_starts_from_given_weights(
    tiny_artifacts: dict[str, Artifact], tiny: Experiment, tmp_path: Path, recorder: Any
) -> None:
    first = tiny_artifacts["train"].path
    run(tiny_artifacts, tiny, tmp_path / "next", recorder, init_from=str(first), steps=1, log_every_steps=1)
    run(tiny_artifacts, tiny, tmp_path / "fresh", recorder, steps=1, log_every_steps=1)
    assert recorder.metrics[0][1]["train/nll_nats"] < recorder.metrics[1][1]["train/nll_nats"]
    wide = tiny.model_copy(update={"model": tiny.model.model_copy(update={"d_model": 16})})
    with pytest.raises(UserError, match="weights do not fit this model"):
        run(tiny_artifacts, wide, tmp_path / "wide", recorder, init_from=str(first))


def test_accumulation_does_not_change_the_gradient(
    tiny_artifacts: dict[str, Artifact], tiny: Experiment, tmp_path: Path, recorder: Any
) -> None:
    for parts in (1, 4):
        run(tiny_artifacts, tiny, tmp_path / str(parts), recorder, steps=1, log_every_steps=1, accumulation=parts,
            precision="float32")  # fmt: skip
    (_, one), (_, four) = recorder.metrics
    assert one["train/grad_norm"] == pytest.approx(four["train/grad_norm"], rel=1e-4)
    assert one["train/nll_nats"] == pytest.approx(four["train/nll_nats"], rel=1e-5)


def test_the_clock_ends_training_and_the_learning_rate_follows_it(tiny: Experiment) -> None:
    config = tiny.training.model_copy(update={"max_minutes": 1.0, "steps": 1000})
    assert loop.progress(config, step=10, elapsed_s=30.0) == pytest.approx(0.5)
    assert loop.progress(config, step=10, elapsed_s=60.0) == 1
    assert loop.progress(config, step=500, elapsed_s=0.0) == pytest.approx(0.5, abs=0.01)
