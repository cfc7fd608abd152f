"""Many short experiments that differ in a few settings, one after the other; the best one's configuration is kept."""

from typing import Any

from prefect import flow

from ddlm.experiment.sweep import Outcome, Sweep
from ddlm.experiment.trials import Direction, Plan, Range
from flows.names import run_name
from tasks.page import flow_run_tags
from tasks.summary import show_sweep
from tasks.trial import trial


@flow(name="sweep", flow_run_name=run_name)
def sweep(
    experiment: str = "configs/quick.toml",
    overrides: dict[str, Any] | None = None,
    grid: dict[str, list[Any]] | None = None,
    study: dict[str, Range] | None = None,
    trials: int = 20,
    metric: str = "evaluation/bits_per_byte",
    direction: Direction = "minimize",
    prune: bool = True,
    name: str | None = None,
) -> Outcome:
    """Try combinations of settings; outputs/sweeps/<name>/ gets best.toml and trials.csv. A killed sweep goes on.

    Args:
        experiment: An experiment's TOML file.
        overrides: Settings that all trials share, by dotted key.
        grid: Every combination of these, for example {"training.learning_rate": [0.001, 0.002]}.
        study: Or what Optuna may choose, for example {"model.num_layers": {"choices": [2, 4]}}.
        trials: How many trials a study has.
        metric: What decides: a score (evaluation/bits_per_byte) or a validation of the training (val/bits_per_byte).
        direction: Which way the metric is better.
        prune: Stop a study's trial whose validation is worse than the median of those before it.
        name: Names the folder and the runs; made from what is swept, if absent.
    """
    plan = Plan(experiment, overrides or {}, grid, study, trials, metric, direction, prune, name)
    with Sweep(plan, tags=flow_run_tags()) as running:
        for each in running:
            trial(running, each)
        return show_sweep(running.finish())
