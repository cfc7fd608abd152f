"""render: GIFs and stills of the denoising."""

from prefect import task

from ddlm.artifacts import Artifact
from ddlm.experiment.stages import Session
from tasks.stage import OPTIONS, build


@task(name="render", **OPTIONS)
def render(session: Session, train: Artifact) -> Artifact:
    return build(session, "render", train)
