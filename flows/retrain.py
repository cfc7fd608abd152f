"""Retraining: fetch what is new, rebuild what that makes stale; publish decides whether `champion` moves."""

from typing import Any, Literal

from prefect import flow

from ddlm.experiment import load_experiment
from ddlm.experiment.view import Summary
from flows.full_pipeline import full_pipeline
from flows.names import run_name
from tasks.champion import champion
from tasks.events import tell_of_champion


@flow(name="retrain", flow_run_name=run_name)
def retrain(
    experiment: str = "configs/quick.toml",
    overrides: dict[str, Any] | None = None,
    start: Literal["scratch", "champion"] = "scratch",
) -> Summary:
    """The full pipeline with a corpus fetched anew. Equal bytes leave everything after it cached.

    Args:
        experiment: An experiment's TOML file.
        overrides: Settings by dotted key, for example {"training.steps": 2000}.
        start: Where training starts: from initial weights, or from those of the registered champion.
    """
    begin = champion(load_experiment(experiment, overrides)) if start == "champion" else {}
    return tell_of_champion(full_pipeline(experiment, {**(overrides or {}), **begin}, force=["corpus"]))
