"""trial: one choice of a sweep's values. Its stages, shared with other trials, are cached by the store."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

from ddlm.experiment.sweep import Sweep
from ddlm.experiment.trials import Result, Trial
from tasks.stage import RETRIES


@task(name="trial", task_run_name="trial-{trial.number}", cache_policy=NO_CACHE, **RETRIES)
def trial(sweep: Sweep, trial: Trial) -> State[Result]:
    """Ends in a state named like the trial's: Complete, Pruned or Failed. A failed one leaves the sweep going."""
    result = sweep.try_out(trial)
    return Completed(name=result.state.capitalize(), data=result)
