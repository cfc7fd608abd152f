"""train: a model folder. A retry, like a new run, continues at the last checkpoint."""

from prefect import task

from ddlm.artifacts import Artifact
from ddlm.experiment.stages import Session
from tasks.page import TrainingBar
from tasks.stage import OPTIONS, build


@task(name="train", **OPTIONS)
def train(session: Session, tokenizer: Artifact, shards: Artifact) -> Artifact:
    with TrainingBar(session) as bar:
        return build(session, "train", tokenizer, shards, watched=bar.watch)
