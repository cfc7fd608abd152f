"""rescore: any model on any stories. Nothing is cached: what is asked for is a new measurement."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from ddlm.experiment.evaluations import Budget, Rescored, evaluate_model, settings_of
from tasks.page import flow_run_tags
from tasks.stage import RETRIES


@task(name="rescore", cache_policy=NO_CACHE, **RETRIES)
def rescore(
    model: str,
    data: str | None,
    budget: Budget,
    overrides: dict[str, Any] | None,
    seed: int,
    uri: str | None,
    text_field: str | None = None,
) -> Rescored:
    settings = settings_of(budget, overrides)
    return evaluate_model(model, data, settings, text_field=text_field, seed=seed, uri=uri, tags=flow_run_tags())
