"""A training that begins as its twin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddlm.bench.train import trainer_of
from ddlm.config import UserError
from ddlm.diffusion import ObjectiveConfig
from ddlm.experiment import load_experiment
from ddlm.model import ModelConfig
from ddlm.model.folder import load_model
from ddlm.model.transformer import Denoiser
from ddlm.training import TrainingConfig, checkpoint, share_done

Train = Callable[..., Path]
ROOT = Path(__file__).parents[3]
HALF: dict[str, Any] = {"objective": {"causal_start": 0.5}}
TWIN: dict[str, Any] = {"objective": {"kind": "autoregressive"}, "model": {"attention": "causal"}}


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_the_start_is_the_twins_to_the_bit_and_what_is_shipped_is_a_masked_model(train: Train, attention: str) -> None:
    settings: dict[str, Any] = {"steps": 12, "save_every_steps": 6, "precision": "float32"}
    start = train("start", **settings, **HALF, model={"attention": attention})
    twin = train("twin", **settings, **TWIN)
    at_half = [checkpoint.load(folder / "scratch" / "step-00000006")[0]["model"] for folder in (start, twin)]
    assert all(torch.equal(at_half[0][name], at_half[1][name]) for name in at_half[1])
    at_end = [checkpoint.load(folder / "scratch" / "step-00000012")[0]["model"] for folder in (start, twin)]
    assert not torch.equal(at_end[0]["embedding.weight"], at_end[1]["embedding.weight"])
    model, folder = load_model(start / "output")
    assert (model.is_autoregressive, folder.objective["causal_start"]) == (False, 0.5)


def test_the_start_is_reported_apart_and_validated_when_it_is_over(train: Train, recorder: Any) -> None:
    folder = train("run", recorder, steps=12, log_every_steps=4, validate_every_steps=3, **HALF)
    names = {
        step: {name for name in values if name.startswith(("train/", "val/"))} for step, values in recorder.metrics
    }
    assert list(names) == [4, 6, 8, 9, 12], "one more where the start ends"
    of_the_bound = {"train/nll_nats", "train/bits_per_byte", "train/accuracy"}
    for step in (4, 6):
        assert "train/autoregressive_nats" in names[step]
        assert not names[step] & (of_the_bound | {"train/bell_nats", "train/mask_rate"})
    for step in (8, 9, 12):
        assert names[step] >= of_the_bound | {"train/bell_nats", "train/mask_rate"}
        assert "train/autoregressive_nats" not in names[step]
    assert [step for step in names if "val/bits_per_byte" in names[step]] == [6, 9, 12]
    assert "train/autoregressive_nats" in (folder / "output" / "curve.csv").read_text().splitlines()[0]


def test_weights_that_are_given_have_their_start_behind_them(train: Train, recorder: Any) -> None:
    first = train("first", steps=2)
    train("next", recorder, steps=2, log_every_steps=1, init_from=str(first / "output"), **HALF)
    assert all("train/nll_nats" in values for _, values in recorder.metrics)


def test_a_run_that_is_made_longer_does_not_start_again(train: Train, recorder: Any) -> None:
    last = checkpoint.newest(train("first", steps=8, **HALF) / "scratch")
    train("more", recorder, steps=40, log_every_steps=1, resume_from=str(last), **HALF)
    made = [values for step, values in recorder.metrics if step > 8]
    assert len(made) == 32
    assert all("train/nll_nats" in values for values in made)


@pytest.mark.parametrize(("step", "elapsed_s", "share"), [(0, 0.0, 0.0), (5, 0.0, 0.5), (5, 54.0, 0.9), (10, 0.0, 1.0)])
def test_how_much_is_done_counts_steps_or_the_clock(step: int, elapsed_s: float, share: float) -> None:
    config = TrainingConfig(steps=10, warmup_steps=20, max_minutes=1)
    assert share_done(config, step, elapsed_s) == pytest.approx(share)


def test_the_objective_at_a_share() -> None:
    objective = ObjectiveConfig(causal_start=0.3, truncation_share=0.2, complementary=True)
    assert objective.at(0.299) == ObjectiveConfig(kind="autoregressive", truncation_share=0.2)
    assert objective.at(0.3) is objective
    assert ObjectiveConfig().at(0.0) == ObjectiveConfig()


def test_read_causally_a_network_computes_what_its_twin_does() -> None:
    sizes: dict[str, Any] = {"d_model": 16, "num_layers": 2, "num_heads": 2}
    masked = Denoiser(ModelConfig(**sizes), vocab_size=9, seq_len=8, end_id=3)
    for parameter in masked.parameters():
        torch.nn.init.normal_(parameter)
    twin = Denoiser(ModelConfig(**sizes, attention="causal"), vocab_size=9, seq_len=8, end_id=3, is_autoregressive=True)
    twin.load_state_dict(masked.state_dict())
    ids = torch.arange(16).view(2, 8) % 9
    assert torch.equal(masked.causal_hidden(ids), twin.hidden(ids))
    assert not torch.allclose(masked.hidden(ids), twin.hidden(ids))


def test_a_benchmark_times_the_steps_behind_the_start() -> None:
    trainer, state = trainer_of(load_experiment(ROOT / "configs" / "tiny.toml", {"objective.causal_start": 0.9}))
    assert not trainer.is_start(state)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objective.causal_start": 1}, "objective.causal_start"),
        (
            {"objective.causal_start": 0.3, "model.segment_mask": True},
            r"causal_start 0.3 .*segment_mask = false or leave",
        ),
        (
            {"objective.causal_start": 0.3, "objective.kind": "autoregressive", "model.attention": "causal"},
            r"causal_start 0.3 has no effect with kind autoregressive",
        ),
    ],
)
def test_a_start_that_can_not_be_is_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_experiment(ROOT / "configs" / "tiny.toml", given)
