"""The training loop. Everything that a resume needs is in one TrainState."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ddlm.artifacts import RunLog
from ddlm.data.progress import shown
from ddlm.diffusion import ObjectiveConfig
from ddlm.diffusion.noise import SCHEDULES, mask_exactly, num_masked, stratified_times
from ddlm.diffusion.objective import WEIGHTINGS, masked_nats
from ddlm.model.transformer import Denoiser
from ddlm.training import TrainingConfig, checkpoint
from ddlm.training.ema import MovingAverage
from ddlm.training.optimizer import clip, learning_rate_ratio, make_optimizers, set_learning_rate

logger = logging.getLogger(__name__)

Metrics = dict[str, float]
SEED_STRIDE = 1_000_003
"""Separates the random streams of neighbouring seeds: a step's stream is seed · stride + step."""


@dataclass
class TrainState:
    """A run between two steps: all of it goes into a checkpoint. `step` counts finished steps."""

    model: Denoiser
    optimizers: list[torch.optim.Optimizer]
    ema: MovingAverage | None
    identity: dict[str, object]
    step: int = 0
    elapsed_s: float = 0.0
    curve: list[Metrics] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        tensors = {"model": dict(self.model.state_dict())}
        if self.ema:
            tensors["ema"] = self.ema.shadow
        for number, optimizer in enumerate(self.optimizers):
            tensors[f"optimizer{number}"] = checkpoint.flatten_optimizer(optimizer)
        state = {"elapsed_s": self.elapsed_s, "curve": self.curve, "identity": self.identity}
        checkpoint.save(folder, self.step, tensors, state)

    def restore(self, path: Path) -> None:
        tensors, state = checkpoint.load(path)
        self.model.load_state_dict(tensors["model"])
        for number, optimizer in enumerate(self.optimizers):
            checkpoint.restore_optimizer(optimizer, tensors[f"optimizer{number}"])
        if self.ema:
            for name, shadow in self.ema.shadow.items():
                shadow.copy_(tensors["ema"][name])
        self.step, self.elapsed_s, self.curve = state["step"], state["elapsed_s"], state["curve"]

    def final_weights(self) -> dict[str, Tensor]:
        return self.ema.weights() if self.ema else dict(self.model.state_dict())


@runtime_checkable
class Batches(Protocol):
    """Where rows come from: `ddlm.data.loader.TokenLoader`, or random ones in a benchmark."""

    seq_len: int

    def batches(self, start_step: int, device: torch.device) -> Iterator[Tensor]:
        """int64 batches (rows, seq_len) on the device, from a step on, without end."""


@dataclass(frozen=True)
class Trainer:
    """What stays the same from step to step."""

    config: TrainingConfig
    objective: ObjectiveConfig
    loader: Batches
    end_id: int
    seed: int
    device: torch.device
    autocast: bool
    run: RunLog
    validate: Callable[[Denoiser], Metrics]
    checkpoints: Path

    def train(self, state: TrainState) -> None:
        """Run to the end, from wherever the state is."""
        started = time.monotonic() - state.elapsed_s
        window = (state.step, time.monotonic())
        batches = self.loader.batches(state.step, self.device)
        wanted = takewhile(lambda _: not self.finished(state), batches)
        for x_0 in shown(wanted, "training, steps", self.config.steps - state.step):
            metrics = self.train_step(state, x_0)
            state.elapsed_s = time.monotonic() - started
            if self.due(state, self.config.validate_every_steps):
                metrics |= self.validated(state)
            if self.due(state, self.config.log_every_steps) or "val/nll_nats" in metrics:
                window = self.report(state, metrics, window)
            if self.due(state, self.config.save_every_steps):
                state.save(self.checkpoints)

    def train_step(self, state: TrainState, x_0: Tensor) -> Metrics:
        """One optimizer step over the global batch, whose noise, like its rows, depends on (seed, step) alone."""
        generator = torch.Generator().manual_seed(self.seed * SEED_STRIDE + state.step)
        torch.manual_seed(self.seed * SEED_STRIDE + state.step)  # dropout
        schedule = SCHEDULES[self.objective.schedule]
        count = num_masked(schedule.alpha(stratified_times(len(x_0), generator)), x_0.shape[1])
        is_masked = mask_exactly(count, x_0.shape[1], generator)
        ratio = learning_rate_ratio(state.step, progress(self.config, state.step, state.elapsed_s), self.config)
        set_learning_rate(state.optimizers, ratio)
        nats = sum(self.micro_step(state.model, *part) for part in self.parts(x_0, is_masked))
        grad_norm = clip(state.model, self.config.clip_norm)
        for optimizer in state.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        state.step += 1
        if state.ema:
            state.ema.update(state.model, state.step)
        return {
            "train/nll_nats": float(nats) / float(text_tokens(x_0, self.end_id)),
            "train/grad_norm": grad_norm,
            "train/lr": ratio * self.config.learning_rate,
        }

    def parts(self, x_0: Tensor, is_masked: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The batch cut into accumulation parts."""
        parts = self.config.accumulation
        return list(zip(x_0.chunk(parts), is_masked.to(self.device).chunk(parts), strict=True))

    def micro_step(self, model: Denoiser, x_0: Tensor, is_masked: Tensor) -> float:
        """Forward and backward over one part. Returns the sum of its rows' bounds in nats."""
        x_t = x_0.masked_fill(is_masked, model.vocab_size)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            logits = model.logits(model.hidden(x_t)[is_masked])
        values = masked_nats(logits, x_0, is_masked)
        (WEIGHTINGS[self.objective.weighting](values) / self.config.accumulation).backward()  # type: ignore[no-untyped-call]
        return float(values.row_bound().detach().sum())

    def validated(self, state: TrainState) -> Metrics:
        """Validation with the weights that will be shipped; the training weights come back afterwards."""
        if not state.ema:
            return self.validate(state.model)
        trained = {name: value.clone() for name, value in state.model.state_dict().items()}
        state.model.load_state_dict(state.ema.weights())
        metrics = self.validate(state.model)
        state.model.load_state_dict(trained)
        return metrics

    def report(self, state: TrainState, metrics: Metrics, window: tuple[int, float]) -> tuple[int, float]:
        """Log a step. Returns the start of the next window, over which speed is measured."""
        first, since = window
        now = time.monotonic()
        speed = (state.step - first) * self.config.batch_size * self.loader.seq_len / (now - since)
        state.curve.append({"step": state.step, **metrics})
        self.run.log({**metrics, "perf/tokens_per_s": speed}, state.step)
        told = f", validation {metrics['val/nll_nats']:.3f}" if "val/nll_nats" in metrics else ""
        line = "train: step %d of %d, %.3f nats a token%s, %.0f tokens/s"
        logger.info(line, state.step, self.config.steps, metrics["train/nll_nats"], told, speed)
        return state.step, now

    def due(self, state: TrainState, every: int) -> bool:
        return state.step % every == 0 or self.finished(state)

    def finished(self, state: TrainState) -> bool:
        return state.step >= self.config.steps or progress(self.config, state.step, state.elapsed_s) >= 1


def progress(config: TrainingConfig, step: int, elapsed_s: float) -> float:
    """The share of training that is done, after warm-up, by steps or by the clock, whichever is further on."""
    by_steps = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    by_clock = elapsed_s / 60 / (config.max_minutes or math.inf)
    return min(1.0, max(0.0, by_steps, by_clock))


def text_tokens(x_0: Tensor, end_id: int) -> Tensor:
    """Tokens of text in a batch, each row's first end token with them: what nats a token are divided by."""
    is_end = x_0 == end_id
    return (~is_end).sum() + is_end.any(1).sum()


def new_state(model: Denoiser, config: TrainingConfig, identity: dict[str, object]) -> TrainState:
    ema = MovingAverage(model, config.ema_decay) if config.ema_decay else None
    return TrainState(model, make_optimizers(model, config), ema, identity)
