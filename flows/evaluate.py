"""Scoring a model again, apart from the run that made it."""

from typing import Any

from prefect import flow

from ddlm.experiment.evaluations import Budget, Rescored
from flows.names import run_name
from tasks.rescore import rescore
from tasks.summary import show_evaluation


@flow(name="evaluate", flow_run_name=run_name)
def evaluate_model(
    model: str = "ddlm-quick@champion",
    data: str | None = None,
    budget: Budget = "standard",
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
    tracking_uri: str | None = None,
    text_field: str | None = None,
) -> Rescored:
    """Score a registered model or a model folder; the report lies in outputs/evaluations/.

    Args:
        model: A registered version (ddlm-quick/3), an alias (ddlm-quick@champion), a model folder or an experiment.
        data: Stories: parquet, jsonl or txt, a file or a folder. Those that the version was published with, if absent.
        budget: How much to spend.
        overrides: Keys of [evaluation] and [sampling], for example {"evaluation.stories": 64}.
        seed: Decides masks and samples.
        tracking_uri: An MLflow server or store; if absent, MLFLOW_TRACKING_URI or the one in the home folder.
        text_field: The column of the text in data; if absent, the one that the model was trained on.
    """
    return show_evaluation(rescore(model, data, budget, overrides, seed, tracking_uri, text_field))
