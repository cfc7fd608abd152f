"""Retraining: fetch what is new, rebuild what that makes stale; publish decides whether `champion` moves."""

from typing import Any

from prefect import flow

from ddlm.experiment.view import Summary
from flows.full_pipeline import full_pipeline


@flow(name="retrain")
def retrain(experiment: str = "configs/quick.toml", overrides: dict[str, Any] | None = None) -> Summary:
    """The full pipeline with a corpus fetched anew. Equal bytes leave everything after it cached."""
    return full_pipeline(experiment, overrides, force=["corpus"])
