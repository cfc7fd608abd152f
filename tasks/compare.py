"""compare: tracked runs beside each other. Nothing is cached, since runs go on and new ones come."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from ddlm.experiment.compare import Comparison, compare_runs
from ddlm.tracking.comparison import Choice
from tasks.stage import RETRIES


@task(name="compare", cache_policy=NO_CACHE, **RETRIES)
def comparison(choice: Choice, name: str | None, uri: str | None) -> Comparison:
    return compare_runs(choice, name=name, uri=uri)
