"""train: a model folder. A retry, like a new run, continues at the last checkpoint."""

from prefect import task

from ddlm.artifacts import Artifact
from ddlm.experiment.stages import Session
from tasks.stage import OPTIONS, build


@task(name="train", **OPTIONS)
def train(session: Session, tokenizer: Artifact, shards: Artifact) -> Artifact:
    return build(session, "train", tokenizer, shards)
