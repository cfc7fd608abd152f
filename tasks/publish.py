"""publish: a registered model version; `champion` moves only to a better one."""

from prefect import task

from ddlm.artifacts import Artifact
from ddlm.experiment.stages import Session
from tasks.stage import OPTIONS, build


@task(name="publish", **OPTIONS)
def publish(session: Session, corpus: Artifact, train: Artifact, evaluate: Artifact, export: Artifact) -> Artifact:
    return build(session, "publish", corpus, train, evaluate, export)
