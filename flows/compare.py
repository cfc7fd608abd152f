"""Tracked runs beside each other."""

from prefect import flow

from ddlm.experiment.compare import Comparison
from ddlm.tracking.comparison import Choice
from flows.names import run_name
from tasks.compare import comparison
from tasks.summary import show_comparison


@flow(name="compare", flow_run_name=run_name)
def compare(
    experiment: str | None = None,
    run_ids: list[str] | None = None,
    filter: str | None = None,
    name: str | None = None,
    tracking_uri: str | None = None,
) -> Comparison:
    """Tables and pictures of MLflow runs in outputs/comparisons/<name>/; ranked only within the same text.

    Args:
        experiment: An experiment's name, for example quick.
        run_ids: Runs by id, instead of all that the other parameters leave.
        filter: MLflow's search language, for example tags.`ddlm.sweep` = 'quick-1f2e3d4c'.
        name: Names the folder; made from the runs, if absent.
        tracking_uri: An MLflow server or store; if absent, MLFLOW_TRACKING_URI or the one in the home folder.
    """
    return show_comparison(comparison(Choice(experiment, tuple(run_ids or ()), filter), name, tracking_uri))
