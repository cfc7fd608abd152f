"""corpus: stories in, cleaned, deduplicated and counted. New ones are told of."""

from typing import Any

from prefect import task

from ddlm.artifacts import Artifact
from ddlm.experiment.stages import Session
from tasks.events import tell_of_corpus
from tasks.stage import OPTIONS, build


@task(name="corpus", **OPTIONS)
def corpus(session: Session) -> Any:
    known = {artifact.digest for artifact in session.store if artifact.stage == "corpus"}
    made = build(session, "corpus")
    tell_of_corpus(session, made if isinstance(made, Artifact) else made.data, known)
    return made
