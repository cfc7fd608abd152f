"""Two processes on one batch: the losses and the weights of one process, however the state is shared out."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.multiprocessing import ProcessRaisedException

from ddlm.experiment import Experiment
from ddlm.training import checkpoint
from ddlm.training.distributed import Ranks, joined
from ddlm.training.stage import Job, follow

Train = Callable[..., Path]

EXACT: dict[str, Any] = {"precision": "float32", "ema_decay": 0.9, "steps": 8, "log_every_steps": 2, "threads": 1}
ROOT = Path(__file__).parents[3]


def losses(metrics: list[tuple[int, dict[str, float]]], name: str) -> list[float]:
    return [values[name] for _, values in metrics if name in values]


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = (load_file(folder / "output" / "model.safetensors") for folder in (one, other))
    for name in first:
        assert torch.allclose(first[name], second[name], atol=2e-5), name


@pytest.mark.parametrize(
    ("sharding", "accumulation", "objective"),
    [
        ("none", 1, {"weighting": "plain", "truncation_share": 0.4}),
        ("none", 2, {"complementary": True}),
        ("optimizer", 2, {}),
        ("full", 2, {"causal_start": 0.5}),
    ],
)
def test_two_processes_train_like_one(
    train: Train, recorder: Any, sharding: str, accumulation: int, objective: dict[str, Any]
) -> None:
    settings = EXACT | {"accumulation": accumulation, "objective": objective}
    one = train("one", recorder, **settings)
    alone, recorder.metrics = recorder.metrics, []
    two = train("two", recorder, processes=2, sharding=sharding, **settings)
    for name in ("train/nll_nats", "train/grad_norm", "train/accuracy", "val/nll_nats", "train/weight_norm/hidden"):
        assert losses(recorder.metrics, name) == pytest.approx(losses(alone, name), rel=1e-4), name
    assert_same_weights(one, two)


@pytest.mark.parametrize("sharding", ["optimizer", "full"])
def test_a_checkpoint_of_two_processes_is_continued_by_one(train: Train, sharding: str) -> None:
    one = train("one", **EXACT)
    train("two", processes=2, sharding=sharding, **EXACT | {"steps": 4, "decay": "constant"})
    last = checkpoint.newest(one.parent / "two" / "scratch")
    whole = train("whole", **EXACT | {"decay": "constant"})
    resumed = train("resumed", resume_from=str(last), **EXACT | {"decay": "constant"})
    assert_same_weights(whole, resumed)


def test_a_rank_that_never_arrives_is_not_waited_for() -> None:
    broken = math.isqrt
    with pytest.raises(ProcessRaisedException, match="isqrt"), joined(torch.device("cpu"), 2, broken, "argument"):
        pass


def test_a_rank_that_leaves_is_not_waited_for(tiny: Experiment, tmp_path: Path) -> None:
    training = tiny.training.model_copy(update={"processes": 2})
    job = Job(tmp_path, tmp_path / "nothing", tmp_path, 1, tiny.model, tiny.objective, training)
    with (
        pytest.raises(ProcessRaisedException, match=r"nothing/rows.json"),
        joined(torch.device("cpu"), 2, follow, job) as ranks,
    ):
        ranks.sum(torch.ones(3))


def test_the_ranks_share_a_batch_without_gap_or_overlap() -> None:
    for count in (1, 2, 3, 4):
        shares = [Ranks(index, count).share(12) for index in range(count)]
        assert [row for share in shares for row in range(12)[share]] == list(range(12))


def test_torchrun_trains_the_same_model(tmp_path: Path) -> None:
    command = [
        "ddlm", "run", str(ROOT / "configs" / "tiny.toml"), "--no-prefect", "--until", "train", "--set",
        "tracking.backend=none", "--set", "training.precision=float32", "--set", "training.threads=1",
    ]  # fmt: skip
    ddlm = [sys.executable, "-m", *command]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    for name, line in (("one", ddlm), ("two", [*torchrun, "--master-port=29617", "-m", *command])):
        environment = os.environ | {
            "DDLM_HOME": str(tmp_path / name),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    first, second = (load_file(tmp_path / name / "tiny" / "model" / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(first[name], second[name], atol=2e-5) for name in first)
