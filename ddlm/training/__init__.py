"""Training: one loop, exact resume."""

from typing import Literal

from pydantic import Field, model_validator

from ddlm.config import EXECUTION_ONLY, Section


class TrainingConfig(Section):
    """`[training]`: all counts are optimizer steps; batches are rows, over all ranks and accumulation steps."""

    steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=32, ge=1)
    accumulation: int = Field(default=1, ge=1)
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon for the hidden matrices, AdamW for the rest."""
    learning_rate: float = Field(default=1e-3, gt=0)
    muon_learning_rate: float = Field(default=0.02, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_steps: int = Field(default=50, ge=0)
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    final_learning_rate_ratio: float = Field(default=0.05, ge=0, le=1)
    clip_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """0 switches the moving average of the weights off."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 where the hardware multiplies it."""
    max_minutes: float | None = Field(default=None, gt=0)
    """Stops by the clock; the learning rate then decays by whichever of steps and minutes is further on."""
    init_from: str | None = None
    """A model folder whose weights training starts from."""
    resume_from: str | None = None
    """A checkpoint folder to continue; only `steps` and execution-only fields may differ from its experiment."""
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", json_schema_extra=EXECUTION_ONLY)
    threads: int | None = Field(default=None, ge=1, json_schema_extra=EXECUTION_ONLY)
    log_every_steps: int = Field(default=20, ge=1, json_schema_extra=EXECUTION_ONLY)
    validate_every_steps: int = Field(default=100, ge=1, json_schema_extra=EXECUTION_ONLY)
    save_every_steps: int = Field(default=100, ge=1, json_schema_extra=EXECUTION_ONLY)

    @model_validator(mode="after")
    def _accumulation_divides_the_batch(self) -> "TrainingConfig":
        if self.batch_size % self.accumulation:
            raise ValueError(f"accumulation {self.accumulation} does not divide batch_size {self.batch_size}")
        return self
