"""corpus: stories in, cleaned, deduplicated and counted."""

from prefect import task

from ddlm.artifacts import Artifact
from ddlm.experiment.stages import Session
from tasks.stage import OPTIONS, build


@task(name="corpus", **OPTIONS)
def corpus(session: Session) -> Artifact:
    return build(session, "corpus")
