"""tokenizer: learned from the training stories."""

from prefect import task

from ddlm.artifacts import Artifact
from ddlm.experiment.stages import Session
from tasks.stage import OPTIONS, build


@task(name="tokenizer", **OPTIONS)
def tokenizer(session: Session, corpus: Artifact) -> Artifact:
    return build(session, "tokenizer", corpus)
