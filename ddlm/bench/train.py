"""Training steps a second, what share of the machine's matrix rate they reach, and where their time goes."""

import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddlm.artifacts import Unlogged
from ddlm.diffusion.objective import weighting_of
from ddlm.experiment import Experiment
from ddlm.model.device import pick_device
from ddlm.model.transformer import Denoiser
from ddlm.training.checkpoint import Writer
from ddlm.training.distributed import Ranks
from ddlm.training.loop import Trainer
from ddlm.training.profiling import TRACED, WAIT, region, traced
from ddlm.training.reports import Reporter
from ddlm.training.stage import prepared
from ddlm.training.start import settled
from ddlm.training.state import TrainState, new_state
from ddlm.training.step import MaskedLoss
from ddlm.training.utilisation import matrix_flops_per_s

WARM_UP = 3
PARTS = ("data", "noise", "forward", "backward", "optimizer")


@dataclass
class RandomRows:
    """Stands in for the loader: the time of a step does not depend on which tokens it sees."""

    vocab_size: int
    seq_len: int
    batch_size: int

    def batches(self, start_step: int, device: torch.device) -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(start_step)
        while True:
            yield torch.randint(self.vocab_size, (self.batch_size, self.seq_len), generator=generator).to(device)


@dataclass
class Stopwatch:
    """Seconds of each named region, the device's queue included."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __call__(self, name: str) -> AbstractContextManager[None]:
        return self._measured(name)

    @contextmanager
    def _measured(self, name: str) -> Iterator[None]:
        started = self.now()
        yield
        self.seconds[name] += self.now() - started

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def measure(experiment: Experiment, *, steps: int = 10, trace: Path | None = None) -> dict[str, Any]:
    """Median of whole steps, and the mean time of their parts from as many more.

    trace: a folder for a profiler's trace. Precision, compiling and accumulation are those of a training run.
    """
    trainer, state = trainer_of(experiment)
    seconds = float(np.median(time_steps(trainer, state, WARM_UP + steps)[WARM_UP:]))
    parts = time_parts(trainer, state, steps)
    if trace:
        write_trace(trainer, state, trace)
    tokens_per_s = trainer.config.batch_size * trainer.loader.seq_len / seconds
    flops_per_s = tokens_per_s * trainer.reporter.flops_per_token
    matrix = trainer.reporter.matrix_flops_per_s
    return {
        "parameters": state.model.num_parameters(),
        "tokens_per_s": tokens_per_s,
        "seconds_per_step": seconds,
        "flops_per_s": flops_per_s,
        "matrix_flops_per_s": matrix,
        "utilisation": flops_per_s / matrix,
        "optimizer_share": parts["optimizer"] / sum(parts.values()),
        "seconds_by_part": parts,
        "peak_memory_bytes": _peak_memory_bytes(trainer.device),
        "precision": trainer.config.precision,
        "compiled": state.model.blocks[0]._compiled_call_impl is not None,
    }


def trainer_of(experiment: Experiment) -> tuple[Trainer, TrainState]:
    """A trainer on random rows, as the train stage would build it, past a causal start."""
    device = pick_device(experiment.training.device)
    training = settled(experiment.training, None, device, Ranks())
    vocab_size, seq_len = experiment.tokenizer.vocab_size, experiment.shards.seq_len
    torch.set_num_threads(training.threads or torch.get_num_threads())
    is_twin = experiment.objective.is_autoregressive
    network = Denoiser(experiment.model, vocab_size=vocab_size, seq_len=seq_len, is_autoregressive=is_twin)
    model = prepared(network, training, device)
    reporter = Reporter(
        run=Unlogged(), config=training, ranks=Ranks(), seq_len=seq_len, tokens_per_byte=1.0,
        objective=weighting_of(experiment.objective).metric, flops_per_token=model.train_flops_per_token(),
        matrix_flops_per_s=matrix_flops_per_s(device, getattr(torch, training.precision)),
    )  # fmt: skip
    trainer = Trainer(
        config=training, objective=experiment.objective, network=MaskedLoss(model), end_id=0,
        loader=RandomRows(vocab_size, seq_len, training.batch_size), seed=experiment.seed, device=device,
        validate=lambda _: {}, preview=lambda _: None, ranks=Ranks(), writer=Writer(Path(), 1),
        reporter=reporter,
    )  # fmt: skip
    state = new_state(model, training, {}, Ranks())
    state.is_past_start = True
    return trainer, state


def time_steps(trainer: Trainer, state: TrainState, count: int) -> list[float]:
    """Seconds of whole steps, data included."""
    clock, batches = Stopwatch(trainer.device), trainer.loader.batches(0, trainer.device)
    moments = [clock.now()]
    for _ in range(count):
        trainer.train_step(state, next(batches))
        moments.append(clock.now())
    return list(np.diff(moments))


def time_parts(trainer: Trainer, state: TrainState, count: int) -> dict[str, float]:
    """Mean seconds a step of each part, and of the rest. On CUDA the parts do not overlap as they do in a run."""
    clock, batches = Stopwatch(trainer.device), trainer.loader.batches(0, trainer.device)
    watched = replace(trainer, region=clock)
    started = clock.now()
    for _ in range(count):
        with clock("data"):
            x_0 = next(batches)
        watched.train_step(state, x_0)
    parts = {name: clock.seconds[name] / count for name in PARTS}
    return parts | {"rest": (clock.now() - started) / count - sum(parts.values())}


def write_trace(trainer: Trainer, state: TrainState, folder: Path) -> None:
    watched, batches = replace(trainer, region=region), trainer.loader.batches(0, trainer.device)
    with traced(folder) as advance:
        for _ in range(WAIT + TRACED):
            watched.train_step(state, next(batches))
            advance()


def _peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
