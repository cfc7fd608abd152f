"""What `ddlm run` calls: the flow in this process, beside a server of its own."""

import copy
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
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
        try:
            done = session.cached(until)
        except Unreachable:  # the download is tried again by its task
            done = None
        if done is not None:
            with session:
                return session.finish(done)
    with embedded():
        from flows.full_pipeline import full_pipeline  # after embedded(): it imports Prefect, which sets up its logging

        without_the_users_mistakes()
        with warnings_in_the_library_log():
            return full_pipeline(experiment, overrides, until, sorted(session.force), session.verify)


@contextmanager
def warnings_in_the_library_log() -> Iterator[None]:
    """Prefect's warnings and retries go where the library's lines go: in their format, above the bars. The rest of
    what it says, our lines say too; all of it is on the run's page."""
    from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler

    ours = [handler for handler in logging.getLogger("ddlm").handlers if not isinstance(handler, APILogHandler)]
    before = logging.root.handlers
    logging.root.handlers = [
        *(handler for handler in before if not isinstance(handler, PrefectConsoleHandler)),
        *map(Relay, ours),
    ]
    try:
        yield
    finally:
        logging.root.handlers = before


class Relay(logging.Handler):
    """Hands to another handler what is news to somebody who reads the library's log."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self.target = target
        self.addFilter(is_news)

    def emit(self, record: logging.LogRecord) -> None:
        """Without its traceback, which DDLM_DEBUG=1 shows once, in the end."""
        line = copy.copy(record)
        line.exc_info = line.exc_text = None
        self.target.handle(line)


def is_news(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    is_retry = bool(re.search(r"- Retry \d+/\d+ will start", said))
    return is_retry or (record.levelno >= logging.WARNING and not said.startswith("Finished in state"))


def without_the_users_mistakes() -> None:
    """Prefect's own lines on them; those of everything else stay."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(is_not_the_users_mistake)


def is_not_the_users_mistake(record: logging.LogRecord) -> bool:
    """The command line reports a mistake in one line; Prefect would add tracebacks and say it twice more."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (UserError, Unreachable)) and UserError.__name__ not in record.getMessage()
