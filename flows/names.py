"""What flow runs are called: what they are about, and the commit of the code that does it."""

import re
from typing import Any

from prefect.runtime import flow_run

from ddlm.config import UserError
from ddlm.experiment import load_experiment
from ddlm.tracking.provenance import origin, settings
from flows.bare_names import QUEUED

OURS = re.compile(rf"[a-z]+-[a-z]+|.+{QUEUED}|.+ at [0-9a-f]{{7}}\+?|.+ at no commit")
"""Prefect's own two words, what a queued run is called, or a name from here, as a run has it that is tried again."""


def run_name() -> str:
    """`quick learning_rate=0.01 at efe2abb`, with a plus sign where files differ from the commit. A name that a user
    gave stays."""
    if not OURS.fullmatch(flow_run.name):
        return str(flow_run.name)
    code = origin()
    commit = code.get("git.commit", "no commit")
    short = commit[:7] if "git.commit" in code else commit
    about = title(str(flow_run.flow_name), flow_run.parameters)
    return f"{about} at {short}{'+' if code.get('git.dirty') == 'true' else ''}"


def title(flow: str, parameters: dict[str, Any]) -> str:
    """The flow, unless it is the pipeline; its subject; and what the run sets beyond its file."""
    words = [] if flow == "full-pipeline" else [flow]
    return " ".join([*words, subject(parameters), *settings(parameters.get("overrides") or {})])


def subject(parameters: dict[str, Any]) -> str:
    """The experiment, or the model that is scored, or what the compared runs are found by."""
    if "overrides" in parameters and "experiment" in parameters:
        try:
            return load_experiment(parameters["experiment"], parameters["overrides"]).name
        except UserError:  # the flow meets it again, and says it
            return str(parameters["experiment"])
    found = (parameters.get(name) for name in ("model", "name", "experiment"))
    return next((str(value) for value in found if value), "runs")
