"""That an interrupted run ends with the bits of an uninterrupted one, and what may be continued from where."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ddlm.artifacts import Artifact
from ddlm.config import UserError
from ddlm.training import checkpoint, loop, start

Train = Callable[..., Path]


class KilledError(Exception):
    """Stands for kill -9: nothing after it runs."""


def weights(folder: Path) -> bytes:
    return (folder / "output" / "model.safetensors").read_bytes()


TWIN: dict[str, Any] = {"objective": {"kind": "autoregressive"}, "model": {"attention": "causal"}}


@pytest.mark.parametrize(
    ("optimizer", "given", "killed_after"),
    [
        *[(optimizer, {}, killed_after) for optimizer in ("adamw", "muon") for killed_after in (2, 7, 11)],
        ("muon", TWIN, 7),
        *[("muon", {"objective": {"causal_start": 0.5}}, killed_after) for killed_after in (5, 7)],
    ],
)
def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(
    train: Train,
    recorder: Any,
    monkeypatch: pytest.MonkeyPatch,
    killed_after: int,
    optimizer: str,
    given: dict[str, dict[str, Any]],
) -> None:
    settings = {
        "optimizer": optimizer, "ema_decay": 0.9, "accumulation": 2, "log_every_steps": 3,
        "model": {"dropout": 0.1} | given.get("model", {}),
        "objective": {"truncation_share": 0.3} | given.get("objective", {}),
    }  # fmt: skip
    whole = train("whole", **settings)
    step = loop.Trainer.train_step

    def killed(self: loop.Trainer, state: Any, x_0: torch.Tensor) -> Any:
        if state.step == killed_after:
            self.writer.wait()
            raise KilledError
        return step(self, state, x_0)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "train_step", killed)
        with pytest.raises(KilledError):
            train("cut", recorder, **settings)
    steps_before = len(recorder.metrics)
    cut = train("cut", recorder, **settings)
    assert weights(cut) == weights(whole)
    assert first_made(recorder, steps_before) > killed_after // 4 * 4, "it went on at its last checkpoint"
    assert (cut / "output" / "curve.csv").read_bytes() == (whole / "output" / "curve.csv").read_bytes()


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before_it(
    train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    first = train("run", steps=8)
    done = weights(first)
    newest = checkpoint.newest(first / "scratch")
    assert newest
    damaged = newest / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    again = train("run", steps=8)
    assert "step-00000008 is damaged" in caplog.text
    assert weights(again) == done


@pytest.mark.parametrize("begun", ["float32", "bfloat16"])
def test_a_run_goes_on_in_the_precision_it_began_with(
    train: Train, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    other = {"float32": "bfloat16", "bfloat16": "float32"}[begun]
    monkeypatch.setattr(start, "has_bfloat16", lambda _: True)
    monkeypatch.setattr(start, "pick_precision", lambda *_: begun)
    whole = train("whole", steps=8, decay="constant")
    last = checkpoint.newest(train("cut", steps=4, decay="constant") / "scratch")
    monkeypatch.setattr(start, "pick_precision", lambda *_: other)
    assert weights(train("more", steps=8, resume_from=str(last), decay="constant")) == weights(whole)
    assert weights(train("cut", steps=8, decay="constant")) == weights(whole)
    assert weights(train("anew", steps=8, decay="constant")) != weights(whole)


def test_where_nothing_multiplies_bfloat16_a_run_in_it_goes_on_in_float32_and_says_so(
    train: Train, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(start, "pick_precision", lambda *_: "bfloat16")
    train("run", steps=4)
    monkeypatch.setattr(start, "has_bfloat16", lambda _: False)
    train("run", steps=8)
    assert "was trained in bfloat16, which this cpu doesn't multiply: float32 from here" in caplog.text


def first_made(recorder: Any, start: int = 0) -> int:
    """The first step that a run reports from having made it; the curve before it is sent again, without its pace."""
    return next(step for step, values in recorder.metrics[start:] if "perf/tokens_per_s" in values)


def test_resume_from_goes_on_and_names_what_it_refuses(train: Train, recorder: Any) -> None:
    last = checkpoint.newest(train("first") / "scratch")
    train("more", recorder, steps=16, resume_from=str(last))
    assert first_made(recorder) > 12
    with pytest.raises(UserError, match=r"resume_from .*: training.batch_size, training.learning_rate differ from"):
        train("other", batch_size=4, learning_rate=3e-3, resume_from=str(last))
    with pytest.raises(UserError, match=r"model.d_model differ from the checkpoint's"):
        train("wide", model={"d_model": 64}, resume_from=str(last))


def test_training_starts_from_given_weights(train: Train, tiny_artifacts: dict[str, Artifact], recorder: Any) -> None:
    first = tiny_artifacts["train"].path
    train("next", recorder, init_from=str(first), steps=1, log_every_steps=1)
    train("fresh", recorder, steps=1, log_every_steps=1)
    assert recorder.metrics[0][1]["train/nll_nats"] < recorder.metrics[1][1]["train/nll_nats"]
    with pytest.raises(UserError, match=r"weights do not fit this model \(.*: got \(.*\), wanted \("):
        train("wide", init_from=str(first), model={"d_model": 16})


def test_a_checkpoint_of_an_older_format_is_refused_and_its_weights_still_serve(train: Train) -> None:
    last = checkpoint.newest(train("first") / "scratch")
    assert last
    state = (last / "state.json").read_text().replace('"format_version": 2', '"format_version": 1')
    old = checkpoint.write(last.parent, 99, {"model": load_file(last / "model.safetensors")}, state)
    with pytest.raises(UserError, match=r"format_version 1, wanted 2; training.init_from starts from its weights"):
        train("more", resume_from=str(old))
    train("again", init_from=str(old), steps=1)


def test_patience_ends_a_run_and_ships_the_best_weights(train: Train) -> None:
    settings: dict[str, Any] = {"steps": 40, "validate_every_steps": 2, "learning_rate": 3.0, "warmup_steps": 0,
                                "optimizer": "adamw", "decay": "constant"}  # fmt: skip
    folder = train("run", patience=3, **settings)
    best = checkpoint.best(folder / "scratch")
    assert best
    _, state = checkpoint.load(best)
    last = checkpoint.newest(folder / "scratch")
    assert last
    assert checkpoint.load(last)[1]["step"] == state["step"] + 6 < 40
    shipped, best_weights = load_file(folder / "output" / "model.safetensors"), load_file(best / "model.safetensors")
    assert all(torch.equal(shipped[name], best_weights[name]) for name in shipped)
