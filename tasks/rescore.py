"""rescore: any model on any stories. Nothing is cached: what is asked for is a new measurement."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from ddlm.experiment.evaluations import Budget, Rescored, evaluate_model, settings_of
from tasks.stage import RETRIES


@task(name="rescore", cache_policy=NO_CACHE, **RETRIES)
def rescore(
    model: str, data: str | None, budget: Budget, overrides: dict[str, Any] | None, seed: int, uri: str | None
) -> Rescored:
    tags = {"prefect.flow_run_id": str(flow_run.id)}
    return evaluate_model(model, data, settings_of(budget, overrides), seed=seed, uri=uri, tags=tags)
