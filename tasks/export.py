"""export: a bundle that runs without ddlm."""

from prefect import task

from ddlm.artifacts import Artifact
from ddlm.experiment.stages import Session
from tasks.stage import OPTIONS, build


@task(name="export", **OPTIONS)
def export(session: Session, shards: Artifact, train: Artifact) -> Artifact:
    return build(session, "export", shards, train)
