"""Training steps a second, and what share of the machine's matrix rate they reach."""

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddlm.experiment import Experiment
from ddlm.model.device import pick_device, uses_bfloat16
from ddlm.model.transformer import Denoiser, train_flops_per_token
from ddlm.training.loop import Trainer, TrainState, new_state

WARM_UP, MEASURED = 3, 10


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


class Silent:
    """A run that nothing is reported to."""

    id = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        del metrics, step


def measure(experiment: Experiment) -> dict[str, Any]:
    """tokens_per_s and flops_per_s of whole steps; matrix_flops_per_s of one large product in the same precision."""
    training, vocab_size, seq_len = experiment.training, experiment.tokenizer.vocab_size, experiment.shards.seq_len
    device = pick_device(training.device)
    autocast = uses_bfloat16(training.precision, device)
    torch.set_num_threads(training.threads or torch.get_num_threads())
    state = new_state(Denoiser(experiment.model, vocab_size=vocab_size, seq_len=seq_len).to(device), training, {})
    trainer = Trainer(
        config=training, objective=experiment.objective, end_id=0, seed=experiment.seed, device=device, run=Silent(),
        loader=RandomRows(vocab_size, seq_len, training.batch_size),
        autocast=autocast, validate=lambda _: {}, checkpoints=Path(),
    )  # fmt: skip
    seconds, optimizer_seconds = _time_steps(trainer, state)
    tokens_per_s = training.batch_size * seq_len / seconds
    flops_per_s = tokens_per_s * train_flops_per_token(experiment.model, vocab_size=vocab_size, seq_len=seq_len)
    matrix = matrix_flops_per_s(device, torch.bfloat16 if autocast else torch.float32)
    return {
        "parameters": state.model.num_parameters(),
        "tokens_per_s": tokens_per_s,
        "flops_per_s": flops_per_s,
        "matrix_flops_per_s": matrix,
        "utilisation": flops_per_s / matrix,
        "optimizer_share": optimizer_seconds / seconds,
        "peak_memory_bytes": _peak_memory_bytes(device),
        "precision": "bfloat16" if autocast else "float32",
    }


def _time_steps(trainer: Trainer, state: TrainState) -> tuple[float, float]:
    """Median seconds of a step, and of its optimizer part alone."""
    batches = trainer.loader.batches(0, trainer.device)
    steps = [timed(lambda: trainer.train_step(state, next(batches)), trainer.device) for _ in range(WARM_UP + MEASURED)]
    for parameter in state.model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3

    def update() -> None:
        for optimizer in state.optimizers:
            optimizer.step()
        if state.ema:
            state.ema.update(state.model, state.step)

    updates = [timed(update, trainer.device) for _ in range(MEASURED)]
    return float(np.median(steps[WARM_UP:])), float(np.median(updates))


def matrix_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """The best of several square products: what the machine can do at most."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: left @ right, device) for _ in range(8))


def timed(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of an action, the device's queue included."""
    started = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
