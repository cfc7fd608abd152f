"""What one sees of a run: metrics by name, previews, a trace."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Train = Callable[..., Path]


def test_every_report_carries_the_metrics_by_their_names(train: Train, recorder: Any) -> None:
    train(
        "run",
        recorder,
        optimizer="muon",
        steps=6,
        log_every_steps=3,
        validate_every_steps=6,
        hidden={"learning_rate": 0.5},
        objective={"weighting": "bound"},
    )
    (first_step, first), (last_step, last) = recorder.metrics
    assert (first_step, last_step) == (3, 6)
    assert first.keys() >= {
        "train/nll_nats", "train/bits_per_byte", "train/nelbo_nats", "train/accuracy", "train/mask_rate",
        "train/random_truncation_applied", "train/grad_norm", "train/lr", "train/lr/hidden", "train/lr/embedding",
        "train/lr/head", "train/lr/scalar", "train/weight_norm/hidden", "train/skipped_steps", "train/tokens_seen",
        "train/nats_at_mask_rate/0.1", "train/nats_at_mask_rate/1.0", "perf/tokens_per_s", "perf/utilisation",
        "perf/loader_waiting_share",
    }  # fmt: skip
    activations = {"val/activation_rms/block0", "val/activation_rms/block1"}
    assert last.keys() - first.keys() == {"val/nll_nats", "val/bits_per_byte", "val/accuracy"} | activations
    assert all(math.isfinite(value) for value in last.values())
    assert last["train/tokens_seen"] == 6 * 8 * 64
    assert last["train/lr/hidden"] > 100 * last["train/lr/head"]


def test_an_objective_that_is_no_bound_is_not_named_like_one(train: Train, recorder: Any) -> None:
    train("run", recorder, steps=2, objective={"weighting": "plain"})
    assert "train/plain_nats" in recorder.metrics[-1][1]
    assert "train/nelbo_nats" not in recorder.metrics[-1][1]


def test_the_reported_bound_is_that_of_the_fresh_model(train: Train, recorder: Any) -> None:
    """A fresh model finds every token equally likely: log V a position, over the text's tokens."""
    train("run", recorder, steps=1, log_every_steps=1, learning_rate=1e-9, objective={"schedule": "cosine"})
    metrics = recorder.metrics[0][1]
    assert metrics["train/nats_at_mask_rate/1.0"] == pytest.approx(math.log(512), rel=1e-3)
    assert metrics["train/nll_nats"] >= math.log(512) * 0.999


def test_previews_are_kept_with_the_run(train: Train, recorder: Any) -> None:
    folder = train("run", recorder, steps=4, sample_every_steps=2) / "scratch" / "previews"
    assert recorder.files == [f"previews/step-0000000{n}.{end}" for n in (2, 4) for end in ("jsonl", "gif")]
    lines = [json.loads(line) for line in (folder / "step-00000004.jsonl").read_text().splitlines()]
    assert [set(line) for line in lines] == [{"sample"}] * 4 + [{"noisy_input", "prediction", "target"}] * 4
    assert all("█" in line["noisy_input"] and "█" not in line["prediction"] for line in lines[4:])
    with Image.open(folder / "step-00000004.gif") as film:
        assert film.n_frames > 8  # type: ignore[attr-defined]


def test_profiling_writes_a_trace_with_the_parts_of_a_step(train: Train) -> None:
    trace = json.loads((train("run", profile=True) / "scratch" / "profile" / "trace.json").read_text())
    named = {event.get("name") for event in trace["traceEvents"]}
    assert named >= {"noise", "forward", "backward", "optimizer"}


@pytest.mark.parametrize("steps", [3, 4, 6])
def test_a_run_that_ends_in_its_trace_keeps_what_there_is(train: Train, steps: int) -> None:
    trace = json.loads((train("run", profile=True, steps=steps) / "scratch" / "profile" / "trace.json").read_text())
    names = [event.get("name") for event in trace["traceEvents"] if event.get("cat") == "user_annotation"]
    assert names.count("optimizer") == steps - 3


def test_a_run_too_short_for_a_trace_says_so(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    folder = train("run", profile=True, steps=2) / "scratch" / "profile"
    assert not list(folder.iterdir())
    assert "no trace: there were 2 steps, and it begins after 3; take more" in caplog.text


def test_accumulation_does_not_change_the_gradient(train: Train, recorder: Any) -> None:
    for parts in (1, 4):
        train(str(parts), recorder, steps=1, log_every_steps=1, accumulation=parts, precision="float32")
    (_, one), (_, four) = recorder.metrics
    assert one["train/grad_norm"] == pytest.approx(four["train/grad_norm"], rel=1e-4)
    assert one["train/nll_nats"] == pytest.approx(four["train/nll_nats"], rel=1e-5)


def test_a_run_that_continues_tells_its_new_log_what_came_before(train: Train, recorder: Any) -> None:
    train("run", steps=4, log_every_steps=2)
    train("run", recorder, steps=8, log_every_steps=2)
    assert [step for step, _ in recorder.metrics] == [2, 4, 6, 8]
    assert recorder.metrics[0][1].keys() >= {"train/nll_nats", "train/lr"}
