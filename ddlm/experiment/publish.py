"""The publish stage: a registered model version, and the decision which version is champion."""

import json
import logging
import math
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import ddlm
from ddlm.artifacts import Workspace, check
from ddlm.config import UserError
from ddlm.evaluation.likelihood import bootstrap_interval
from ddlm.experiment.registered import fetch
from ddlm.tracking import TrackingConfig
from ddlm.tracking.backends import NewRun, now_ms
from ddlm.tracking.mlflow_runs import MlflowRuns
from ddlm.tracking.registry import MODEL_FOLDER, Registry, Version

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
CHALLENGER, CHAMPION = "challenger", "champion"
SCORES_FOLDER, ROW_NATS = "evaluation", "row_nats.parquet"
REQUIREMENTS = (
    "mlflow", "torch", "jaxtyping", "tokenizers", "safetensors", "numpy", "pyarrow", "pydantic", "tomli-w",
    "huggingface-hub",
)  # fmt: skip
"""What a served model imports besides ddlm, whose code travels with it."""


@dataclass(frozen=True, eq=False)
class StoryScores:
    """nats and UTF-8 bytes of each story of the evaluated text, in its order."""

    nats: np.ndarray
    text_bytes: np.ndarray


@dataclass(frozen=True)
class Decision:
    """Whether the new version becomes champion, and why.

    difference: its bits per byte minus the champion's; interval: of that, 95 %, bootstrapped over stories.
    """

    promote: bool
    reason: str
    difference: float | None = None
    interval: tuple[float, float] | None = None


def build(workspace: Workspace, *, seed: int, name: str, tracking: TrackingConfig) -> None:
    """Register the model as `ddlm-<name>` and write publication.json.

    Raises: DamageError when an input is not what its manifest says. Unavailable, a ConnectionError, without MLflow.
    """
    digests = {stage: check(folder, verify=True) for stage, folder in workspace.inputs.items()}
    if tracking.backend == "mlflow":
        publication = _publish(workspace, digests, seed=seed, name=name, uri=tracking.uri)
    else:
        reason = f"not registered: tracking.backend is {tracking.backend!r}, and only mlflow has a model registry"
        publication = {"registered": False, "reason": reason}
    logger.info("%s", publication["reason"])
    document = {"format_version": FORMAT_VERSION, **publication}
    (workspace.output / "publication.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _publish(workspace: Workspace, digests: dict[str, str], *, seed: int, name: str, uri: str | None) -> dict[str, Any]:
    scores = json.loads((workspace.inputs["evaluate"] / "scores.json").read_bytes())
    runs = MlflowRuns(uri)
    runs.open()
    registry = Registry(runs, f"ddlm-{name}")
    version = _register(registry, runs, workspace, name, _identity(scores, digests))
    registry.tag(version, {f"digest.{stage}": digest for stage, digest in digests.items()})
    before = registry.holder(CHAMPION)
    registry.point(CHALLENGER, version)
    decision = _compare(registry, workspace, version, before, seed)
    if decision.promote:
        registry.point(CHAMPION, version)
    return _publication(f"ddlm-{name}", version, before, decision)


def _publication(model: str, version: Version, before: Version | None, decision: Decision) -> dict[str, Any]:
    champion = version if decision.promote or before is None else before
    verb = "becomes" if decision.promote else "stays"
    return {
        "registered": True,
        "model": model,
        "version": version.number,
        "aliases": {CHALLENGER: version.number, CHAMPION: champion.number},
        "decision": "promoted" if decision.promote else "kept",
        "champion_before": before.number if before else None,
        "difference_bits_per_byte": decision.difference,
        "interval_bits_per_byte": decision.interval,
        "reason": f"{model} version {champion.number} {verb} champion: {decision.reason}",
    }


def _identity(scores: dict[str, Any], digests: dict[str, str]) -> dict[str, str]:
    """The tags by which a version is known again: the same weights with the same scores are one version."""
    return {
        "digest.train": digests["train"],
        "data_digest": scores["data_digest"],
        "bits_per_byte": repr(scores["bits_per_byte"]),
        "nll_nats": repr(scores["nll_nats"]),
    }


def _register(
    registry: Registry, runs: MlflowRuns, workspace: Workspace, name: str, identity: dict[str, str]
) -> Version:
    known = registry.find(identity)
    if known:
        return known
    run = workspace.run.id or runs.start(NewRun(name, "publish", None, {}, {}, now_ms()))
    folder = workspace.scratch / MODEL_FOLDER
    _save_model(workspace.inputs["train"], folder)
    runs.upload(run, str(folder), "")
    for file in ("scores.json", ROW_NATS):
        runs.upload(run, str(workspace.inputs["evaluate"] / file), SCORES_FOLDER)
    return registry.add(run, identity)


def _save_model(model: Path, folder: Path) -> None:
    """An MLflow model without pickle: the model folder, ddlm's code, and `served.py`, which joins them."""
    shutil.rmtree(folder, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow warns of its own type hints while it is imported
        from mlflow import pyfunc

        pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"model": str(model)},
            code_paths=[str(Path(ddlm.__file__).parent)],
            # pip has no "+cpu" builds
            pip_requirements=[f"{name}=={installed(name).partition('+')[0]}" for name in REQUIREMENTS],
        )


def _compare(
    registry: Registry, workspace: Workspace, version: Version, champion: Version | None, seed: int
) -> Decision:
    """Whether the version replaces the champion."""
    if champion is None:
        return Decision(True, "it is the first")
    if champion.number == version.number:
        return Decision(False, "it holds this very model")
    if champion.tags.get("data_digest") != version.tags["data_digest"]:
        return _compare_on_new_text(registry, workspace, version, champion, seed)
    theirs = registry.download(champion, SCORES_FOLDER, ROW_NATS, workspace.scratch)
    if theirs is None:
        return Decision(False, f"its {ROW_NATS} is gone from its run, so version {version.number} can't be judged")
    return decide(read_scores(workspace.inputs["evaluate"] / ROW_NATS), read_scores(theirs), seed=seed)


def _compare_on_new_text(
    registry: Registry, workspace: Workspace, version: Version, champion: Version, seed: int
) -> Decision:
    """The champion is scored anew, on the text that the version was measured on. A champion that can't be stays."""
    evaluated = workspace.inputs["evaluate"]
    settings = json.loads((evaluated / "scores.json").read_bytes())["settings"]
    try:
        theirs = rescored(fetch(registry, champion), workspace.inputs["corpus"], settings)
    except UserError as error:
        return Decision(False, f"version {version.number} was measured on another evaluation text, and {error}")
    decision = decide(read_scores(evaluated / ROW_NATS), theirs, seed=seed)
    return replace(decision, reason=f"{decision.reason}, the champion scored anew on the new evaluation text")


def rescored(model: Path, corpus: Path, settings: Mapping[str, Any]) -> StoryScores:
    """A model folder on the validation stories of a corpus, as an evaluation with these settings measures it.

    Raises: UserError for a folder that can't be used.
    """
    from ddlm.data.corpus import read_stories
    from ddlm.evaluation.likelihood import likelihood_of
    from ddlm.evaluation.subject import rows_from_texts
    from ddlm.evaluation.sweep import Sweep
    from ddlm.generation import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(model, "auto")
    stories = read_stories(corpus, "validation", limit=settings["stories"])
    rows, story = rows_from_texts(pipeline.tokenizer, stories, pipeline.seq_len, pipeline.config.layout)
    masks, sweep = settings["masks_per_row"], Sweep(device=pipeline.device, label="scoring the champion, batches")
    found = likelihood_of(pipeline.model, rows, masks_per_row=masks, seed=settings["seed"], story=story, sweep=sweep)
    return StoryScores(np.bincount(story, found.row_nats), np.bincount(story, rows.text_bytes))


def decide(new: StoryScores, champion: StoryScores, *, seed: int) -> Decision:
    """Paired over stories: the new one wins when the interval of its difference lies wholly below 0 bits per byte."""
    if not np.array_equal(new.text_bytes, champion.text_bytes):
        return Decision(False, "the new one's rows hold other pieces of the text, so the two can't be paired")
    bits = (new.nats - champion.nats) / math.log(2)
    difference = float(bits.sum() / new.text_bytes.sum())
    low, high = bootstrap_interval(bits, new.text_bytes, seed=seed)
    measured = f"the new one differs by {difference:+.4f} bits per byte (95 % interval {low:+.4f} to {high:+.4f})"
    return Decision(high < 0, measured, difference, (low, high))


def read_scores(path: Path) -> StoryScores:
    """row_nats.parquet, its rows summed by story."""
    table = pq.read_table(path, columns=["story", "nats", "text_bytes"])
    story, nats, text_bytes = (table[name].to_numpy() for name in ("story", "nats", "text_bytes"))
    return StoryScores(np.bincount(story, nats), np.bincount(story, text_bytes))
