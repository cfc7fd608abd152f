"""placeholder, replaced by the tracking module"""

from typing import Literal

from pydantic import Field

from ddlm.config import EXECUTION_ONLY, Section


class TrackingConfig(Section):
    """`[tracking]`."""

    backend: Literal["mlflow", "wandb", "jsonl", "none"] = "mlflow"
    uri: str | None = None
    """An MLflow server or store; `mlflow.db` in the home folder when absent."""
    flush_every_s: float = Field(default=10.0, gt=0, json_schema_extra=EXECUTION_ONLY)
