"""Optimizers, what each group of parameters does differently, and the learning rate over steps."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ddlm.model.device import pick_precision
from ddlm.model.transformer import Denoiser
from ddlm.training import GroupConfig, TrainingConfig
from ddlm.training.muon import Muon

MUON_LEARNING_RATE = 0.02
"""The hidden matrices' with Muon: its steps have a size of their own, and other widths and depths ask for no other."""

OUTSIDE_BLOCKS = {"embedding.weight": "embedding", "output.weight": "head"}


def make_optimizers(model: Denoiser, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the hidden matrices and AdamW for the rest.

    Each group has its `name` (hidden, embedding, head, scalar; a tied head is the embedding), its `peak` learning rate
    and `final_ratio`, the share of it that is left at the end.
    """
    grouped = defaultdict(list)
    for name, parameter in model.named_parameters():
        grouped[group_of(name, parameter)].append(parameter)
    described = [{"params": parameters, **settings(name, config)} for name, parameters in grouped.items()]
    with_muon = [group for group in described if is_for_muon(group["name"], config)]
    with_adam = [group for group in described if not is_for_muon(group["name"], config)]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(with_adam, fused=True)]
    if with_muon:
        precision = pick_precision(config.precision, model.embedding.weight.device)
        optimizers.insert(0, Muon(with_muon, dtype=getattr(torch, precision)))
    return optimizers


def groups(optimizers: list[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def group_of(name: str, parameter: Tensor) -> str:
    """Vectors (norm weights, the start) are scalars: each entry has a meaning of its own."""
    return "scalar" if parameter.ndim < 2 else OUTSIDE_BLOCKS.get(name, "hidden")


def is_for_muon(group: str, config: TrainingConfig) -> bool:
    return group == "hidden" and config.optimizer == "muon"


def settings(name: str, config: TrainingConfig) -> dict[str, Any]:
    """A group's options: its own where given, else the general ones. Scalars are not decayed unless asked for."""
    own: GroupConfig = getattr(config, name)
    uses_muon = is_for_muon(name, config)
    general = {
        "learning_rate": MUON_LEARNING_RATE if uses_muon else config.learning_rate,
        "final_learning_rate_ratio": config.final_learning_rate_ratio,
        "weight_decay": 0.0 if name == "scalar" else config.weight_decay,
        **({"momentum": 0.95} if uses_muon else {"betas": config.betas, "eps": 1e-8}),
    }
    chosen = {option: getattr(own, option) for option in general if getattr(own, option) is not None}
    options = general | chosen
    peak, final_ratio = options.pop("learning_rate"), options.pop("final_learning_rate_ratio")
    return {"name": name, "lr": peak, "peak": peak, "final_ratio": final_ratio, **options}


def learning_rate_ratio(step: int, progress: float, config: TrainingConfig, final_ratio: float) -> float:
    """The share of its peak that a learning rate has at a step counted from 0.

    Warm-up is counted in steps and starts above zero; decay follows `progress`, the share of training done.
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    left = {
        "constant": 1.0,
        "linear": 1 - progress,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "wsd": min(1.0, (1 - progress) / config.decay_share),
    }[config.decay]
    return final_ratio + (1 - final_ratio) * left


def set_learning_rate(
    optimizers: list[torch.optim.Optimizer], step: int, progress: float, config: TrainingConfig
) -> dict[str, float]:
    """Returns the learning rates by group."""
    for group in groups(optimizers):
        group["lr"] = group["peak"] * learning_rate_ratio(step, progress, config, group["final_ratio"])
    return {group["name"]: group["lr"] for group in groups(optimizers)}


def clip(parameters: Iterable[Tensor], max_norm: float) -> tuple[Tensor, Tensor]:
    """Scale the gradients down to `max_norm`. Returns their norm before, and 1 where it is not finite, else 0.

    Both stay on the device: nothing waits for them.
    """
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    return norm, (~norm.isfinite()).float()
