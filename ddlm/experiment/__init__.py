"""The composition: one experiment is every section's configuration, a name and a seed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from ddlm.config import Section, home, parse, read_toml, shortened, with_overrides
from ddlm.data import CorpusConfig, ShardsConfig
from ddlm.diffusion import ObjectiveConfig, SamplingConfig
from ddlm.evaluation import EvaluationConfig
from ddlm.export import ExportConfig
from ddlm.model import ModelConfig, require_causal
from ddlm.rendering import RenderingConfig
from ddlm.tokenizer import TokenizerConfig
from ddlm.tracking import TrackingConfig
from ddlm.training import TrainingConfig

RESERVED = frozenset(
    {
        "artifacts", "comparisons", "control", "evaluations", "fetched", "mlartifacts", "mlruns", "prefect", "spool",
        "stories", "sweeps", "tracking", "vendor", "wandb",
    }
)  # fmt: skip
"""Folders beside the experiments' in the home folder, and the name of a bundled model: no experiment is called so."""


class Experiment(Section):
    """Everything that decides a run's result."""

    name: str
    """Names the folder under `outputs/` and the registered model `ddlm-<name>`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    corpus: CorpusConfig = CorpusConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    shards: ShardsConfig = ShardsConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    rendering: RenderingConfig = RenderingConfig()
    export: ExportConfig = ExportConfig()
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("name")
    @classmethod
    def _a_name_makes_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name):
            raise ValueError(
                f"got {shortened(repr(name))}, wanted at most 64 lower-case letters, digits, - and _, with a letter or "
                "a digit first, since it names a folder and a registered model"
            )
        if name in RESERVED:
            raise ValueError(f"{name!r} is the name of a folder of ddlm's own in {home()}; take another one")
        return name

    @model_validator(mode="after")
    def _the_twin_sees_no_future(self) -> "Experiment":
        require_causal(self.model, self.objective.is_autoregressive)
        return self

    @model_validator(mode="after")
    def _a_causal_start_sees_whole_rows(self) -> "Experiment":
        """Segments found in the shifted row would begin one token late."""
        if self.objective.causal_start and self.model.segment_mask:
            raise ValueError(
                f"objective.causal_start {self.objective.causal_start:g} reads rows that model.segment_mask would cut; "
                "set model.segment_mask = false or leave causal_start out"
            )
        return self

    @model_validator(mode="after")
    def _canvases_are_shorter_than_rows(self) -> "Experiment":
        longest = max(self.export.lengths, default=0)
        if longest > self.shards.seq_len:
            raise ValueError(
                f"export.lengths has {longest}, but the model writes shards.seq_len = {self.shards.seq_len} tokens; "
                "take shorter ones"
            )
        return self


def load_experiment(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """Read a TOML file and apply overrides by dotted key. Raises: UserError naming key, value and remedy."""
    document = with_overrides(read_toml(Path(path)), overrides or {})
    return parse(Experiment, document, source=str(path))
