"""What one sees of a run: the log, the curve, the progress bar; and the end of a run that has gone astray."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ddlm.artifacts import RunLog
from ddlm.config import UserError
from ddlm.data.progress import bar
from ddlm.diffusion.objective import AUTOREGRESSIVE
from ddlm.training import TrainingConfig
from ddlm.training.distributed import Ranks, whole
from ddlm.training.meter import Metrics
from ddlm.training.optimizer import groups
from ddlm.training.profiling import traced
from ddlm.training.state import TrainState

logger = logging.getLogger(__name__)

CURVE = (
    "train/nll_nats", "train/bits_per_byte", "train/accuracy", "val/nll_nats", "val/bits_per_byte", "val/accuracy",
    "train/autoregressive_nats", "train/lr", "train/grad_norm",
)  # fmt: skip
"""What the curve keeps of each report."""
OF_THE_BOUND = ("train/nll_nats", "train/bits_per_byte", "train/accuracy")


@dataclass
class Reporter:
    """Speaks for the first rank. All ranks call it, since sums and norms are taken over all.

    objective: the metric's name of what training minimises. flops_per_token: of forward and backward.
    matrix_flops_per_s: what the ranks' devices could do at most, together. trace: a folder for a profiler's trace.
    """

    run: RunLog
    config: TrainingConfig
    ranks: Ranks
    objective: str
    seq_len: int
    tokens_per_byte: float
    flops_per_token: float
    matrix_flops_per_s: float
    trace: Path | None = None
    _first: int = 0
    _since: float = 0.0
    _waited_s: float = 0.0
    _note: str = ""
    _show: Callable[[int, str], None] = field(init=False)
    _traced: Callable[[], None] = field(init=False)

    @contextmanager
    def following(self, state: TrainState) -> Iterator[None]:
        """Shows a bar from the state's step on, and traces the first few steps if that is asked for."""
        if state.step and self.ranks.is_first:
            self._recall(state)
        self._open_window(state)
        traces = traced(self.trace) if self.trace else nullcontext(lambda: None)
        with bar("training, steps", self.config.steps, state.step) as self._show, traces as self._traced:
            yield

    def _recall(self, state: TrainState) -> None:
        """Log the curve up to here: this run is tracked anew, and the one that was killed kept what it had sent."""
        logger.info("train: continuing after step %d of %d", state.step, self.config.steps)
        for point in state.curve:
            self.run.log({name: value for name, value in point.items() if name != "step"}, int(point["step"]))

    def waited_for(self, batches: Iterator[Tensor]) -> Tensor:
        """The next batch, and a note of how long it took to come."""
        started = time.monotonic()
        x_0 = next(batches)
        self._waited_s += time.monotonic() - started
        return x_0

    def advance(self, state: TrainState) -> None:
        """A step is over."""
        self._show(state.step, self._note)
        self._traced()

    def report(self, state: TrainState, last: Mapping[str, Tensor | float], *, is_start: bool) -> None:
        """Log what happened since the last report, and the values of the last step.

        is_start: whether the steps were a causal start, which says nothing of the bound; so nothing is said of it.
        Raises: UserError when more steps have been skipped than are allowed.
        """
        objective = AUTOREGRESSIVE.metric if is_start else self.objective
        metrics = state.meter.take(self.ranks, objective, self.tokens_per_byte)
        if is_start:
            metrics = {name: value for name, value in metrics.items() if name not in OF_THE_BOUND}
        metrics |= {name: float(value) for name, value in last.items()}
        metrics["train/skipped_steps"] = float(state.skipped)
        metrics["train/tokens_seen"] = float(state.step * self.config.batch_size * self.seq_len)
        state.curve.append({"step": state.step} | {name: metrics[name] for name in CURVE if name in metrics})
        metrics |= weight_norms(state) | self._pace(state)
        if self.ranks.is_first:
            self.run.log(metrics, state.step)
            self._tell(state, metrics, is_start)
        self._open_window(state)
        self._require_few_skipped(state)

    def _pace(self, state: TrainState) -> Metrics:
        seconds = time.monotonic() - self._since
        tokens_per_s = (state.step - self._first) * self.config.batch_size * self.seq_len / seconds
        pace = {
            "perf/tokens_per_s": tokens_per_s,
            "perf/utilisation": tokens_per_s * self.flops_per_token / self.matrix_flops_per_s,
            "perf/loader_waiting_share": self._waited_s / seconds,
        }
        if torch.cuda.is_available():
            pace["perf/cuda_peak_memory_bytes"] = float(torch.cuda.max_memory_allocated())
        return pace

    def _tell(self, state: TrainState, metrics: Metrics, is_start: bool) -> None:
        told = f"{metrics.get('train/nll_nats', math.nan):.3f} nats a token"
        told += f", {metrics.get('train/bits_per_byte', math.nan):.3f} bits a byte"
        if is_start:
            told = f"causal start, {metrics.get(f'train/{AUTOREGRESSIVE.metric}', math.nan):.3f} nats a position"
        if "val/nll_nats" in metrics:
            told += f", validation {metrics['val/nll_nats']:.3f} and {metrics['val/bits_per_byte']:.3f}"
        self._note = f"{told}, {metrics['perf/tokens_per_s']:,.0f} tokens/s"
        logger.info("train: step %d of %d, %s", state.step, self.config.steps, self._note)

    def _require_few_skipped(self, state: TrainState) -> None:
        skipped, allowed = int(state.skipped), self.config.max_skipped_steps
        if skipped > allowed:
            raise UserError(
                f"training: {skipped} steps had a loss or gradient that was not finite and were skipped, at most "
                f"{allowed} may be (training.max_skipped_steps); the checkpoints hold good weights: lower "
                "training.learning_rate or training.hidden.learning_rate; where every step is skipped, set "
                "training.compile=off"
            )

    def _open_window(self, state: TrainState) -> None:
        self._first, self._since, self._waited_s = state.step, time.monotonic(), 0.0


def weight_norms(state: TrainState) -> Metrics:
    """The norm of each group of parameters."""
    norms: Metrics = {}
    for group in groups(state.optimizers):
        norm = torch.nn.utils.get_total_norm(group["params"])
        norms[f"train/weight_norm/{group['name']}"] = float(whole(norm))
    return norms
