"""shards: the stories as rows of token ids."""

from prefect import task

from ddlm.artifacts import Artifact
from ddlm.experiment.stages import Session
from tasks.stage import OPTIONS, build


@task(name="shards", **OPTIONS)
def shards(session: Session, corpus: Artifact, tokenizer: Artifact) -> Artifact:
    return build(session, "shards", corpus, tokenizer)
