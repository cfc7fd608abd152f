"""Checkpoints on disk: whole or ignored, the newest and the best kept."""

import os
from pathlib import Path

import pytest
import torch

from ddlm.config import UserError
from ddlm.training import checkpoint


def write(folder: Path, step: int) -> Path:
    return checkpoint.write(folder, step, {"model": {"w": torch.full((3,), float(step))}}, f'{{"step": {step}}}')


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (2, 3):
        write(tmp_path, step)
    damaged = tmp_path / "step-00000003" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    newest = checkpoint.newest(tmp_path)
    assert newest
    assert newest.name == "step-00000002"
    assert "step-00000003 is damaged" in caplog.text


def test_the_newest_ones_and_the_best_one_are_kept(tmp_path: Path) -> None:
    writer = checkpoint.Writer(tmp_path, keep=2)
    for step in range(1, 6):
        writer.save(step, {"model": {"w": torch.ones(3)}}, {}, best_step=min(step, 2))
        writer.wait()
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step-00000002", "step-00000004", "step-00000005"]
    best = checkpoint.best(tmp_path)
    assert best
    assert best.name == "step-00000002"


def test_a_checkpoint_holds_the_values_of_its_step(tmp_path: Path) -> None:
    writer, weight = checkpoint.Writer(tmp_path, keep=2), torch.ones(1 << 18)
    writer.save(1, {"model": {"w": weight}}, {}, best_step=None)
    weight.zero_()  # training goes on while the file is written
    writer.wait()
    tensors, state = checkpoint.load(tmp_path / "step-00000001")
    assert tensors["model"]["w"].eq(1).all()
    assert state["step"] == 1


def test_a_checkpoints_files_are_all_as_readable(tmp_path: Path) -> None:
    modes = {path.stat().st_mode for path in write(tmp_path, 1).iterdir()}
    assert len(modes) == 1


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/full").exists(), reason="needs a file system to fill")
def test_a_full_disk_leaves_the_older_checkpoint_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = checkpoint.Writer(tmp_path, keep=2)
    writer.save(1, {"model": {"w": torch.ones(3)}}, {}, best_step=None)
    writer.wait()

    def full(*_: object) -> None:
        Path("/dev/full").write_bytes(b"x")

    monkeypatch.setattr(checkpoint, "seal", full)
    writer.save(2, {"model": {"w": torch.ones(3)}}, {}, best_step=None)
    with pytest.raises(UserError, match=r"can't be written \(No space left on device\); those before it are whole"):
        writer.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    monkeypatch.undo()
    writer.save(2, {"model": {"w": torch.ones(3)}}, {}, best_step=None)
    writer.wait()
    assert checkpoint.newest(tmp_path) == tmp_path / "step-00000002"
