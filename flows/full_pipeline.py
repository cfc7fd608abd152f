"""The whole pipeline: corpus to a published model and a Jetson bundle."""

from typing import Any

from prefect import flow

from ddlm.experiment import load_experiment
from ddlm.experiment.stages import Session, needed_for
from ddlm.experiment.view import Summary
from flows.names import run_name
from tasks.corpus import corpus
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.page import flow_run_tags
from tasks.publish import publish
from tasks.render import render
from tasks.shards import shards
from tasks.stage import Progress
from tasks.summary import show
from tasks.tokenizer import tokenizer
from tasks.train import train


@flow(name="full-pipeline", flow_run_name=run_name)
def full_pipeline(
    experiment: str = "configs/quick.toml",
    overrides: dict[str, Any] | None = None,
    until: str | None = None,
    force: list[str] | None = None,
    verify: bool = False,
) -> Summary:
    """Run an experiment's stages, as far as they are not cached, and put its folder together.

    Args:
        experiment: An experiment's TOML file.
        overrides: Settings by dotted key, for example {"training.steps": 2000}.
        until: The last stage to run: corpus, tokenizer, shards, train, evaluate, render, export or publish.
        force: Stages to build again though they are cached.
        verify: Check every byte of cached artifacts.
    """
    asked = {"force": frozenset(force or ()), "verify": verify, "tags": flow_run_tags(), "overrides": overrides or {}}
    with Session(load_experiment(experiment, overrides), **asked) as session:
        session.require(until)
        progress = Progress(session, wanted=needed_for(until))
        for stage in (corpus, tokenizer, shards, train):
            progress.run(stage)
        progress.run(evaluate, render, export)
        with session.publishing(progress.done):
            progress.run(publish)
        return show(session.finish(progress.done), session.tracker.address)
