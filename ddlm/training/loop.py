"""The training loop."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ddlm.diffusion import ObjectiveConfig
from ddlm.diffusion.noise import draw_noise
from ddlm.training import TrainingConfig, progress, share_done
from ddlm.training.checkpoint import Writer
from ddlm.training.distributed import Ranks, last_part_synchronises
from ddlm.training.interruption import postponed
from ddlm.training.meter import Metrics, measured, of_step
from ddlm.training.optimizer import clip, set_learning_rate
from ddlm.training.reports import Reporter
from ddlm.training.state import TrainState
from ddlm.training.step import Part, parts_of

SEED_STRIDE = 1_000_003
"""Separates the dropout of neighbouring seeds: a step's stream is seed · stride + step."""

Region = Callable[[str], AbstractContextManager[object]]
"""Marks a part of a step for a profiler or a stopwatch."""


@runtime_checkable
class Batches(Protocol):
    """Where rows come from: `ddlm.data.loader.TokenLoader`, or random ones in a benchmark."""

    seq_len: int

    def batches(self, start_step: int, device: torch.device) -> Iterator[Tensor]:
        """This rank's rows of every batch from a step on, int64 (rows, seq_len), on the device, without end."""


@dataclass(frozen=True)
class Trainer:
    """What stays the same from step to step.

    config: its precision is settled. network: a MaskedLoss around the state's model, wrapped for the ranks.
    validate, preview: measure and show the weights that would be shipped now. All ranks call them; all get the first
        one's numbers.
    """

    config: TrainingConfig
    objective: ObjectiveConfig
    network: nn.Module
    loader: Batches
    end_id: int
    seed: int
    device: torch.device
    validate: Callable[[TrainState], Metrics]
    writer: Writer
    reporter: Reporter
    preview: Callable[[TrainState], None]
    ranks: Ranks
    region: Region = nullcontext

    def train(self, state: TrainState) -> None:
        """Run to the end, from wherever the state is. A signal saves first and takes effect on the way out."""
        started = time.monotonic() - state.elapsed_s
        batches = self.loader.batches(state.step, self.device)
        interrupted = False
        with postponed() as received, self.reporter.following(state):
            while not interrupted and not self.is_over(state):
                was_start = self.is_start(state)
                last = self.train_step(state, self.reporter.waited_for(batches))
                state.elapsed_s, signal = self.ranks.highest(time.monotonic() - started, float(received()))
                interrupted, state.is_past_start = bool(signal), not self.is_start(state)
                measures = state.is_past_start and self.is_due(state, self.config.validate_every_steps)
                validation = self.validate(state) if measures and not interrupted else {}
                is_best = bool(validation) and state.note_validation(validation)
                turns = was_start and state.is_past_start
                if validation or turns or self.is_due(state, self.config.log_every_steps):
                    self.reporter.report(state, last | validation, is_start=was_start)
                if is_best or interrupted or self.is_due(state, self.config.save_every_steps):
                    state.save(self.writer, self.ranks)
                if self.config.sample_every_steps and self.is_due(state, self.config.sample_every_steps):
                    self.preview(state)
                self.reporter.advance(state)
            self.writer.wait()
        if interrupted:  # here no signal came, but another rank got one: half a run is no whole one
            raise KeyboardInterrupt

    def train_step(self, state: TrainState, x_0: Tensor) -> dict[str, Tensor | float]:
        """One optimizer step over the global batch, whose noise, like its rows, depends on (seed, step) alone."""
        with self.region("noise"):
            parts, sums = self.noised(self.objective_at(state), state.step, x_0)
        torch.manual_seed(self.seed * SEED_STRIDE + state.step)  # dropout
        for part in parts:
            sums += self.micro_step(part, is_last=part is parts[-1])
        with self.region("optimizer"):
            done = progress(self.config, state.step, state.elapsed_s)
            rates = set_learning_rate(state.optimizers, state.step, done, self.config)
            norm, found_inf = clip(self.network.parameters(), self.config.clip_norm)
            update(state.optimizers, found_inf)
            state.step += 1
            if state.ema:
                state.ema.update(state.model, state.step)
            state.meter.add(sums, is_finite=found_inf == 0)
            state.skipped += found_inf
        by_group = {f"train/lr/{name}": rate for name, rate in rates.items()}
        return {"train/grad_norm": norm, "train/lr": rates["hidden"], **by_group}

    def noised(self, objective: ObjectiveConfig, step: int, x_0: Tensor) -> tuple[list[Part], Tensor]:
        """The rows cut into parts, noised; and the step's own sums."""
        rows = self.ranks.share(self.config.batch_size)
        noise = draw_noise(
            objective, seed=self.seed, step=step, batch_size=self.config.batch_size, seq_len=x_0.shape[1],
            rows=rows, device=self.device,
        )  # fmt: skip
        parts = parts_of(x_0, noise, objective, rows, self.config.accumulation)
        return parts, of_step(noise, self.ranks, self.device)

    def micro_step(self, part: Part, *, is_last: bool) -> Tensor:
        """Forward and backward over one part. Returns what it adds to the meter."""
        with last_part_synchronises(self.network, is_last):
            with self.region("forward"), self.autocast():
                loss, nats, is_hit = self.network(part)
            with self.region("backward"):
                (loss * self.ranks.count).backward()  # the ranks' gradients are averaged; the loss wants their sum
        return measured(part, loss, nats, is_hit, self.end_id)

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def objective_at(self, state: TrainState) -> ObjectiveConfig:
        """What the next step minimises."""
        is_past = state.is_past_start
        return self.objective if is_past else self.objective.at(share_done(self.config, state.step, state.elapsed_s))

    def is_start(self, state: TrainState) -> bool:
        """Whether that is not yet the objective that the network is trained for."""
        return self.objective_at(state) is not self.objective

    def is_due(self, state: TrainState, every: int) -> bool:
        return state.step % every == 0 or self.is_over(state)

    def is_over(self, state: TrainState) -> bool:
        patience = self.config.patience
        tired = patience is not None and state.validations_without_best >= patience
        return tired or state.step >= self.config.steps or progress(self.config, state.step, state.elapsed_s) >= 1


def update(optimizers: list[torch.optim.Optimizer], found_inf: Tensor) -> None:
    """Step, or where `found_inf` is 1 change nothing; and drop the gradients.

    A GPU decides by itself, so that nobody waits for it; a CPU's answer is there already, and saves the deciding.
    """
    decides = found_inf if found_inf.is_cuda else None
    steps = decides is not None or not found_inf
    for optimizer in optimizers:
        inner: Any = getattr(optimizer, "optim", optimizer)  # ZeRO wraps the optimizer that does the work
        inner.grad_scale, inner.found_inf = None, decides
        if steps:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
