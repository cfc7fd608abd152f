"""Optimizers and the learning rate over steps."""

import math
from typing import Any

import torch
from torch import nn

from ddlm.model.transformer import Denoiser
from ddlm.training import TrainingConfig


def make_optimizers(model: Denoiser, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the blocks' matrices and AdamW for the rest.

    Each group keeps its peak learning rate as `peak`. Vectors (norm weights) are not decayed.
    """
    blocks = [p for p in model.blocks.parameters() if p.ndim == 2]
    in_blocks = {id(p) for p in blocks}
    vectors = [p for p in model.parameters() if p.ndim < 2]
    tables = [p for p in model.parameters() if p.ndim == 2 and id(p) not in in_blocks]
    adam = [{"params": tables, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = []
    if config.optimizer == "adamw":
        adam.append({"params": blocks, "weight_decay": config.weight_decay})
    else:
        optimizers.append(
            torch.optim.Muon(blocks, lr=config.muon_learning_rate, weight_decay=config.weight_decay, momentum=0.95)
        )
    optimizers.append(torch.optim.AdamW(adam, lr=config.learning_rate, betas=config.betas, fused=True))
    for group in groups(optimizers):
        group["peak"] = group["lr"]
    return optimizers


def groups(optimizers: list[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def learning_rate_ratio(step: int, progress: float, config: TrainingConfig) -> float:
    """The share of its peak that a learning rate has at a step counted from 0.

    Warm-up is counted in steps and starts above zero; decay follows `progress`, the share of training done.
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.decay == "constant":
        return 1.0
    shape = 1 - progress if config.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.final_learning_rate_ratio + (1 - config.final_learning_rate_ratio) * shape


def set_learning_rate(optimizers: list[torch.optim.Optimizer], ratio: float) -> None:
    for group in groups(optimizers):
        group["lr"] = group["peak"] * ratio


def clip(model: nn.Module, max_norm: float) -> float:
    """Scale the gradients down to `max_norm`. Returns their norm before. Raises: ValueError when it is not finite."""
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm))
    if not math.isfinite(norm):
        raise ValueError(f"training diverged: the gradient norm is {norm}; lower training.learning_rate")
    return norm
