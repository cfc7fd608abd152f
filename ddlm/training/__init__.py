"""Training: one loop, exact resume."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ddlm.config import EXECUTION_ONLY, LocalPath, Section

DECAY_SHARE, FINAL_RATIO = 0.2, 0.05
Beta = Annotated[float, Field(ge=0, lt=1)]


class GroupConfig(Section):
    """`[training.hidden]`, `.embedding`, `.head`, `.scalar`: what one group of parameters does differently."""

    learning_rate: float | None = Field(default=None, gt=0)
    final_learning_rate_ratio: float | None = Field(default=None, ge=0, le=1)
    weight_decay: float | None = Field(default=None, ge=0)
    betas: tuple[Beta, Beta] | None = None
    eps: float | None = Field(default=None, gt=0)
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """Muon's, so of `hidden` alone."""


class TrainingConfig(Section):
    """`[training]`: all counts are optimizer steps; batches are rows, over all ranks and accumulation steps."""

    steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=32, ge=1, le=2**20)
    accumulation: int = Field(default=1, ge=1, le=2**20)
    optimizer: Literal["adamw", "muon"] = "muon"
    """`muon`: Muon for the hidden matrices, AdamW for the rest."""
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    hidden: GroupConfig = GroupConfig()
    embedding: GroupConfig = GroupConfig()
    head: GroupConfig = GroupConfig()
    scalar: GroupConfig = GroupConfig()
    warmup_steps: int = Field(default=50, ge=0)
    decay: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    decay_share: float = Field(default=DECAY_SHARE, gt=0, le=1)
    """The last share of training, over which `wsd` (warm-up, stable, decay) decays linearly."""
    final_learning_rate_ratio: float = Field(default=FINAL_RATIO, ge=0, le=1)
    clip_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """0 switches the moving average of the weights off."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 where the hardware multiplies it."""
    compile: Literal["auto", "on", "off"] = "auto"
    """`auto`: torch.compile where the run is long enough to pay for it."""
    max_minutes: float | None = Field(default=None, gt=0)
    """Stops by the clock; the learning rate then decays by whichever of steps and minutes is further on."""
    patience: int | None = Field(default=None, ge=1)
    """Stops after so many validations without a new best, and ships the best weights, not the last."""
    max_skipped_steps: int = Field(default=20, ge=0)
    """A step with a loss or gradient that is not finite is skipped; more of them end the run."""
    init_from: LocalPath | None = None
    """A MODEL whose weights training starts from: a folder, an experiment, a registered model or a hub id."""
    resume_from: LocalPath | None = None
    """A checkpoint folder to continue; only `steps` and execution-only fields may differ from its experiment."""
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", json_schema_extra=EXECUTION_ONLY)
    threads: int | None = Field(default=None, ge=1, le=2**12, json_schema_extra=EXECUTION_ONLY)
    processes: int = Field(default=1, ge=1, le=1024, json_schema_extra=EXECUTION_ONLY)
    """Started here, each with its share of the batch. Under torchrun leave it 1: its ranks count instead."""
    sharding: Literal["none", "optimizer", "full"] = Field(default="none", json_schema_extra=EXECUTION_ONLY)
    """Over processes: `optimizer` shards its state (ZeRO-1), `full` parameters, gradients and state (FSDP2)."""
    checkpoint_activations: bool = Field(default=False, json_schema_extra=EXECUTION_ONLY)
    """Compute the blocks' activations again in the backward pass: less memory for a third more work."""
    log_every_steps: int = Field(default=20, ge=1, json_schema_extra=EXECUTION_ONLY)
    validate_every_steps: int = Field(default=100, ge=1, json_schema_extra=EXECUTION_ONLY)
    save_every_steps: int = Field(default=100, ge=1, json_schema_extra=EXECUTION_ONLY)
    keep_checkpoints: int = Field(default=2, ge=1, json_schema_extra=EXECUTION_ONLY)
    """The newest so many stay, and the best."""
    sample_every_steps: int | None = Field(default=None, ge=1, json_schema_extra=EXECUTION_ONLY)
    """Write samples and a small GIF into the tracked run."""
    profile: bool = Field(default=False, json_schema_extra=EXECUTION_ONLY)
    """NVTX ranges, a trace of a few steps and, on CUDA, a memory snapshot, beside the checkpoints."""

    @model_validator(mode="after")
    def _shares_divide_the_batch(self) -> "TrainingConfig":
        if self.batch_size % (self.accumulation * self.processes):
            parts = f"accumulation {self.accumulation}" + f" x {self.processes} processes" * (self.processes > 1)
            raise ValueError(f"{parts} do not divide batch_size {self.batch_size}; take a multiple of them")
        return self

    @model_validator(mode="after")
    def _options_belong_to_the_optimizer(self) -> "TrainingConfig":
        with_muon = self.optimizer == "muon"
        by_adam = (self.embedding, self.head, self.scalar) + (() if with_muon else (self.hidden,))
        if any(group.momentum is not None for group in by_adam):
            raise ValueError("momentum has no effect under AdamW: only training.hidden with muon takes it; set betas")
        if with_muon and (self.hidden.betas or self.hidden.eps):
            raise ValueError("training.hidden: betas and eps have no effect under Muon; set momentum")
        return self

    @model_validator(mode="after")
    def _shares_belong_to_the_decay(self) -> "TrainingConfig":
        ratio, share = self.final_learning_rate_ratio, self.decay_share
        if self.decay != "wsd" and share != DECAY_SHARE:
            raise ValueError(f"decay_share {share:g} is for decay wsd, and that is {self.decay}; leave it out")
        if self.decay == "constant" and ratio != FINAL_RATIO:
            raise ValueError(f"final_learning_rate_ratio {ratio:g} has no effect with decay constant; leave it out")
        return self

    def keyed(self) -> dict[str, Any]:
        """With patience, how often is measured decides when training ends."""
        own = {} if self.patience is None else {"validate_every_steps": self.validate_every_steps}
        return super().keyed() | own


def share_done(config: TrainingConfig, step: int, elapsed_s: float) -> float:
    """The share of training that is done, by steps or by the clock, whichever is further on."""
    return min(1.0, max(step / config.steps, _by_clock(config, elapsed_s)))


def progress(config: TrainingConfig, step: int, elapsed_s: float) -> float:
    """The same with steps counted after warm-up: what the learning rate follows."""
    by_steps = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return min(1.0, max(0.0, by_steps, _by_clock(config, elapsed_s)))


def _by_clock(config: TrainingConfig, elapsed_s: float) -> float:
    return elapsed_s / 60 / (config.max_minutes or math.inf)
