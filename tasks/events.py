"""What others may react to, as Prefect events. Without a server that takes them, nothing happens."""

import json
from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event
from prefect.runtime import flow_run

from ddlm.artifacts import Artifact
from ddlm.experiment.stages import Session
from ddlm.experiment.view import Summary


def tell_of_corpus(session: Session, corpus: Artifact, known: set[str]) -> None:
    """`ddlm.corpus.updated` of stories just made and not known before. The payload says what to retrain.

    Nothing is told by a run that goes on to a published model: it is the retraining that others would start.
    """
    given = flow_run.parameters
    goes_on = given.get("until") in (None, "publish")
    if "corpus" in session.built and corpus.digest not in known and not goes_on:
        asked = {name: given[name] for name in ("experiment", "overrides") if given.get(name)}
        resource = {"prefect.resource.id": f"ddlm.corpus.{session.experiment.name}"}
        emit_event("ddlm.corpus.updated", resource, payload={"digest": corpus.digest, **asked})


def tell_of_champion(summary: Summary) -> Summary:
    """`ddlm.champion.promoted` or `.kept` with the reason, when a new version was judged. Returns the summary."""
    publication = json.loads((summary.folder / "publication.json").read_bytes())
    if summary.stages["publish"] == "built" and publication.get("registered") and is_verdict(publication):
        resource = {"prefect.resource.id": f"ddlm.model.{summary.name}", "prefect.resource.name": publication["model"]}
        emit_event(f"ddlm.champion.{publication['decision']}", resource, payload=publication)
    return summary


def is_verdict(publication: Mapping[str, Any]) -> bool:
    """Not so when the very champion was published again."""
    return bool(publication["decision"] == "promoted" or publication["version"] != publication["aliases"]["champion"])
