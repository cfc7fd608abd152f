"""Sampling speed by policy, batch size and number of steps."""

import time
from typing import Any

import torch
from torch import Tensor

from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.sampler import Draw, sample
from ddlm.diffusion.unmasking import POLICIES
from ddlm.experiment import Experiment
from ddlm.model.device import pick_device
from ddlm.model.transformer import Denoiser
from ddlm.training.utilisation import timed

BATCHES_AND_STEPS = ((1, 50), (8, 25))


def measure(experiment: Experiment) -> dict[str, Any]:
    """One row for each policy and setting; the model has its first, untrained weights."""
    device = pick_device(experiment.training.device)
    model = Denoiser(
        experiment.model, vocab_size=experiment.tokenizer.vocab_size, seq_len=experiment.shards.seq_len
    ).to(device)  # fmt: skip
    model.eval()
    return {
        "parameters": model.num_parameters(),
        "rows": [
            _row(model, device, policy, batch_size, steps)
            for policy in POLICIES
            for batch_size, steps in BATCHES_AND_STEPS
        ],
    }


def _row(model: Denoiser, device: torch.device, policy: str, batch_size: int, steps: int) -> dict[str, Any]:
    network_s = 0.0

    def denoise(ids: Tensor) -> Tensor:
        nonlocal network_s
        started = time.perf_counter()
        logits: Tensor = model(ids)
        if device.type == "cuda":
            torch.cuda.synchronize()
        network_s += time.perf_counter() - started
        return logits

    config = SamplingConfig(unmasking=policy, num_sampling_steps=steps)  # type: ignore[arg-type]
    start = torch.full((batch_size, model.seq_len), model.vocab_size, device=device)
    draw = Draw(config, 0, torch.arange(batch_size, device=device), end_id=0)
    sample(denoise, start, model.vocab_size, draw)
    network_s = 0.0
    seconds = timed(lambda: sample(denoise, start, model.vocab_size, draw), device)
    calls = min(steps, model.seq_len)
    return {
        "unmasking": policy,
        "batch_size": batch_size,
        "num_sampling_steps": steps,
        "calls": calls,
        "ms_per_call": 1000 * seconds / calls,
        "tokens_per_s": batch_size * model.seq_len / seconds,
        "outside_network_share": 1 - network_s / seconds,
    }
