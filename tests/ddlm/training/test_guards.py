"""What ends or skips a step, and what a run is refused for: one clear line each."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ddlm.config import UserError
from ddlm.experiment import Experiment
from ddlm.model.folder import save_weights
from ddlm.model.source import WEIGHTS
from ddlm.training import TrainingConfig, checkpoint, loop, progress
from ddlm.training.distributed import Ranks
from ddlm.training.interruption import postponed
from ddlm.training.step import MaskedLoss

Train = Callable[..., Path]

ROOT = Path(__file__).parents[3]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The calls of the network, counted from 1, whose loss is not a number."""
    bad: list[int] = []
    forward, calls = MaskedLoss.forward, iter(range(1, 10**6))

    def failing(self: MaskedLoss, part: Any) -> Any:
        loss, nats, is_hit = forward(self, part)
        return (loss * float("nan"), nats, is_hit) if next(calls) in bad else (loss, nats, is_hit)

    monkeypatch.setattr(MaskedLoss, "forward", failing)
    return bad


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(
    train: Train, recorder: Any, broken: list[int], optimizer: str
) -> None:
    broken += [2]
    folder = train("run", recorder, optimizer=optimizer, steps=2, save_every_steps=1, log_every_steps=1)
    assert [metrics["train/skipped_steps"] for _, metrics in recorder.metrics] == [0, 1]
    before, after = (load_file(folder / "scratch" / f"step-0000000{n}" / "model.safetensors") for n in (1, 2))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(value.isfinite().all() for value in after.values())


def test_weights_that_are_not_finite_are_no_model(tmp_path: Path) -> None:
    tensors = {"head": torch.ones(2), "embedding": torch.tensor([1.0, float("nan")])}
    with pytest.raises(UserError, match=r"1 of 2 weights, embedding first, are not finite; lower training"):
        save_weights(tensors, tmp_path)
    assert not (tmp_path / WEIGHTS).exists()


def test_weights_are_as_readable_as_their_neighbours(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    save_weights({"head": torch.ones(2)}, tmp_path)
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_too_many_skipped_steps_end_the_run_with_good_weights(train: Train, broken: list[int], tmp_path: Path) -> None:
    broken += range(4, 12)
    with pytest.raises(
        UserError, match=r"3 steps had a loss or gradient .* at most 2 may be .*lower training.learning"
    ):
        train("run", max_skipped_steps=2, log_every_steps=1, save_every_steps=1)
    last = checkpoint.newest(tmp_path / "run" / "scratch")
    assert last
    assert all(value.isfinite().all() for value in load_file(last / "model.safetensors").values())


def test_out_of_memory_names_the_batch_and_what_to_do(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def huge(*_: object) -> None:
        torch.empty(1 << 50)

    monkeypatch.setattr(MaskedLoss, "forward", huge)
    with pytest.raises(UserError, match=r"out of memory with 8 rows at a time .* set training.accumulation=2"):
        train("run")


def test_a_batch_larger_than_the_data_is_refused(train: Train) -> None:
    with pytest.raises(UserError, match=r"batch_size 4096: the training data has \d+ rows; take a smaller batch"):
        train("run", batch_size=4096)


def test_shares_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="accumulation 3 do not divide batch_size 8"):
        TrainingConfig(batch_size=8, accumulation=3)
    with pytest.raises(ValueError, match="accumulation 2 x 3 processes do not divide batch_size 8"):
        TrainingConfig(batch_size=8, accumulation=2, processes=3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_is_refused(train: Train) -> None:
    with pytest.raises(UserError, match="device cuda: torch sees no CUDA device here"):
        train("run", device="cuda")


@pytest.mark.usefixtures("can_compile")
def test_compiling_without_a_compiler_is_refused(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"training.compile on: no C\+\+ compiler"):
        train("run", compile="on")


def test_the_clock_ends_training_with_its_decay_finished(
    train: Train, recorder: Any, tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.training.model_copy(update={"max_minutes": 1.0, "steps": 1000})
    assert progress(config, step=10, elapsed_s=30.0) == pytest.approx(0.5)
    assert progress(config, step=10, elapsed_s=60.0) == 1
    assert progress(config, step=500, elapsed_s=0.0) == pytest.approx(0.5, abs=0.01)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=count(0, 3).__next__))  # 3 s a step
    train("run", recorder, steps=10**6, max_minutes=1, final_learning_rate_ratio=0.1, log_every_steps=1)
    last_step, last = recorder.metrics[-1]
    assert last_step == 20
    assert last["train/lr"] < 0.2 * max(metrics["train/lr"] for _, metrics in recorder.metrics)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_and_the_next_run_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    command = [
        sys.executable, "-m", "ddlm", "run", str(ROOT / "configs" / "tiny.toml"), "--no-prefect", "--until", "train",
        "--set", "tracking.backend=none", "--set", "training.save_every_steps=100000", "--set", "training.threads=1",
        "--set", "training.validate_every_steps=100000",
    ]  # fmt: skip
    environment = os.environ | {"DDLM_HOME": str(tmp_path / "home")}
    long = [*command, "--set", "training.steps=100000"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(long, env=environment, stdout=log, stderr=log)
        try:
            wait_for(lambda: "train: step" in (tmp_path / "log").read_text(), process)
            process.send_signal(number)
            assert process.wait(timeout=30) != 0
        finally:
            process.kill()
            process.wait()
    scratch = next((tmp_path / "home" / "artifacts" / ".scratch").glob("train-*"))
    saved = checkpoint.newest(scratch)
    assert saved, (tmp_path / "log").read_text()
    step = checkpoint.load(saved)[1]["step"]
    assert step % 100000
    go_on = [*command, "--set", f"training.steps={step + 3}", "--set", f"training.resume_from={saved}"]
    subprocess.run(go_on, env=environment, check=True, timeout=120, capture_output=True)


def wait_for(condition: Any, process: subprocess.Popen[Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended before its time"
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


finished: list[int] = []


@pytest.fixture
def plain_signals() -> Iterator[None]:
    """As a process of its own has them: whoever runs the tests may have taken them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def take_steps(signals: list[signal.Signals]) -> int:
    """A loop of five steps that signals reach before its first."""
    steps = 0
    with postponed() as received:
        for number in signals:
            signal.raise_signal(number)
        while steps < 5 and not received():
            steps += 1
        finished.append(steps)
    return steps


@pytest.mark.usefixtures("plain_signals")
@pytest.mark.parametrize(("number", "effect"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_postponed_signal_takes_effect_on_the_way_out(number: signal.Signals, effect: type[BaseException]) -> None:
    finished.clear()
    with pytest.raises(effect):
        take_steps([number])
    assert finished == [0]


def test_a_signal_to_another_rank_ends_this_one_too(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Ranks, "highest", lambda _, elapsed_s, __: [elapsed_s, 1.0])
    with pytest.raises(KeyboardInterrupt):
        train("run", precision="float32")
    saved = checkpoint.newest(tmp_path / "run" / "scratch")
    assert saved
    assert checkpoint.load(saved)[1]["step"] == 1
    assert not list((tmp_path / "run" / "output").iterdir())


@pytest.mark.usefixtures("plain_signals")
def test_a_second_signal_takes_effect_at_once() -> None:
    finished.clear()
    with pytest.raises(KeyboardInterrupt):
        take_steps([signal.SIGINT, signal.SIGINT])
    assert finished == []


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert take_steps([signal.SIGINT]) == 5
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("plain_signals")
def test_a_handler_that_lets_a_signal_pass_does_not_make_half_a_run_a_whole_one() -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(SystemExit):
            take_steps([signal.SIGTERM])
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_a_signal_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert take_steps([]) == 5
    assert signal.getsignal(signal.SIGTERM) is before
