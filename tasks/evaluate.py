"""evaluate: scores, samples, report."""

from prefect import task

from ddlm.artifacts import Artifact
from ddlm.experiment.stages import Session
from tasks.stage import OPTIONS, build


@task(name="evaluate", **OPTIONS)
def evaluate(session: Session, corpus: Artifact, shards: Artifact, train: Artifact) -> Artifact:
    return build(session, "evaluate", corpus, shards, train)
