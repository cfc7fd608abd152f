"""What `ddlm run` calls: the flow in this process, beside a server of its own."""

import logging
import os
from typing import TYPE_CHECKING, Any

from ddlm.config import Unreachable, UserError
from flows.server import embedded

if TYPE_CHECKING:
    from ddlm.experiment.stages import Session
    from ddlm.experiment.view import Summary


def run(
    session: "Session", experiment: str, overrides: dict[str, Any] | None = None, until: str | None = None
) -> "Summary":
    """The full pipeline. The flow opens a session of its own, as it does on a worker; this one says how.

    Where nothing is to be built no server is started: there would be nothing to look at. What can be known of a run
    beforehand, such as a missing file, is refused before one is started, too.

    Raises: what the failed stage raised.
    """
    if not os.environ.get("PREFECT_API_URL"):
        done = session.cached(until)
        if done is not None:
            with session:
                return session.finish(done)
    with embedded():
        from flows.full_pipeline import full_pipeline  # after embedded(): it imports Prefect

        without_the_users_mistakes()
        return full_pipeline(experiment, overrides, until, sorted(session.force), session.verify)


def without_the_users_mistakes() -> None:
    """Prefect's own lines on them; those of everything else stay."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(is_not_the_users_mistake)


def is_not_the_users_mistake(record: logging.LogRecord) -> bool:
    """The command line reports a mistake in one line; Prefect would add tracebacks and say it twice more."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (UserError, Unreachable)) and UserError.__name__ not in record.getMessage()
