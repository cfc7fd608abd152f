"""Sampling by policy, batch size and number of steps: runs of the network, and the time outside it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.sampler import sample
from ddlm.diffusion.tokens import Draw
from ddlm.diffusion.unmasking import POLICIES
from ddlm.experiment import Experiment
from ddlm.generation import DiffusionPipeline
from ddlm.generation.runner import Runner
from ddlm.model.device import pick_inference_device, pick_precision
from ddlm.model.transformer import Denoiser

STEPS = {1: 50, 8: 25, 32: 25}
"""By batch size; the first two are those of seed S3's measurements."""
PEAKEDNESS = 4.0
"""Standard deviation of an untrained network's logits. A head of zeros would make every token equally likely, and no
text is like that: filters would sort whole vocabularies."""


@dataclass
class Watched:
    """A denoiser that counts its runs and their seconds, head included."""

    runner: Runner
    calls: int = 0
    seconds: float = 0.0

    def __call__(self, ids: Tensor, wanted: Tensor) -> Tensor:
        started = self._now(ids)
        logits = self.runner.at(ids, wanted)
        self.seconds += self._now(ids) - started
        self.calls += 1
        return logits

    @staticmethod
    def _now(ids: Tensor) -> float:
        if ids.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def measure(
    experiment: Experiment,
    *,
    model: str | None = None,
    unmasking: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    steps: int | None = None,
    compiled: bool = False,
) -> dict[str, Any]:
    """One row for each policy and batch size; every position of the canvas is written.

    model: a trained one, in place of the experiment's network with random weights. unmasking, batch_sizes: all when
    empty. steps: in place of those in `STEPS`. compiled: whether the network's blocks are, which is not timed.
    """
    network, precision = trained(model) if model else untrained(experiment)
    runner = Runner(network, "on" if compiled else "auto")
    if compiled:
        runner.prepare(0)
    rows = [
        time_sampling(runner, name, size, steps or STEPS.get(size, 25))
        for size in batch_sizes or STEPS
        for name in unmasking or (["left_to_right"] if network.is_autoregressive else POLICIES)
    ]
    return {
        "parameters": network.num_parameters(), "seq_len": network.seq_len, "vocab_size": network.vocab_size,
        "precision": precision, "compiled": compiled, "threads": torch.get_num_threads(), "rows": rows,
    }  # fmt: skip


def trained(name: str) -> tuple[Denoiser, str]:
    pipeline = DiffusionPipeline.from_pretrained(name, "auto")
    return pipeline.writer, pipeline.precision


def untrained(experiment: Experiment) -> tuple[Denoiser, str]:
    device = pick_inference_device(experiment.training.device)
    torch.manual_seed(experiment.seed)
    network = Denoiser(
        experiment.model, vocab_size=experiment.tokenizer.vocab_size, seq_len=experiment.shards.seq_len,
        is_autoregressive=experiment.objective.is_autoregressive,
    )  # fmt: skip
    nn.init.normal_(network.head_weight, std=PEAKEDNESS * experiment.model.d_model**-0.5)
    precision = pick_precision("auto", device)
    return network.to(device, getattr(torch, precision)).eval(), precision


@torch.inference_mode()
def time_sampling(runner: Runner, unmasking: str, batch_size: int, steps: int) -> dict[str, Any]:
    network, device = runner.network, runner.device
    config = SamplingConfig(unmasking=unmasking, num_sampling_steps=steps, ends="free")  # type: ignore[arg-type]
    ids = torch.full((batch_size, network.seq_len), network.vocab_size, device=device)
    draw = Draw(config, 0, torch.arange(batch_size, device=device), end_id=0)
    for _ in range(2):  # the first run of a shape is slower, and a GPU captures its graph in the second
        runner.at(ids, ids > 0)
    watched = Watched(runner)
    started = time.perf_counter()
    sample(watched, ids, network.vocab_size, draw)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return {
        "unmasking": unmasking,
        "batch_size": batch_size,
        "num_sampling_steps": steps,
        "calls": watched.calls,
        "ms_per_call": 1000 * seconds / watched.calls,
        "tokens_per_s": ids.numel() / seconds,
        "outside_network_share": 1 - watched.seconds / seconds,
    }
