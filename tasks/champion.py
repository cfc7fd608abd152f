"""champion: where training may start, the weights that are best so far."""

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE

from ddlm.experiment import Experiment
from ddlm.model.registered import weights_of_champion
from tasks.stage import RETRIES

logger = logging.getLogger("ddlm.flows")  # shown as the library's lines are


@task(name="champion", cache_policy=NO_CACHE, **RETRIES)
def champion(experiment: Experiment) -> dict[str, str]:
    """The overrides that start from the champion's weights and vocabulary; none, and a log line, without a champion.

    A tokenizer learned from new stories would give the same numbers to other tokens.
    """
    is_registered = experiment.tracking.backend == "mlflow"
    folder = weights_of_champion(experiment.name, experiment.tracking.uri) if is_registered else None
    if folder is None:
        logger.warning("ddlm-%s has no champion yet: training starts from scratch", experiment.name)
        return {}
    vocabulary = experiment.tokenizer.pretrained or str(folder)
    return {"training.init_from": str(folder), "tokenizer.pretrained": vocabulary}
