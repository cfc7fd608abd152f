"""The publish stage: a registered model version, and the decision which version is champion."""

import json
import logging
import math
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

import ddlm
from ddlm.artifacts import Workspace, check
from ddlm.config import UserError
from ddlm.evaluation.likelihood import bootstrap_interval
from ddlm.evaluation.measures import numbers_of
from ddlm.model.registered import fetch
from ddlm.tracking import TrackingConfig
from ddlm.tracking.backends import NewRun, Row, now_ms
from ddlm.tracking.mlflow_runs import MlflowRuns
from ddlm.tracking.patience import patiently
from ddlm.tracking.provenance import origin
from ddlm.tracking.registry import CHALLENGER, CHAMPION, Registry, Version

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
SCORES, ROW_NATS = "scores.json", "row_nats.parquet"
SCORES_FOLDER = "evaluation"
"""Where a version's scores are, next to its model."""
REQUIREMENTS = (
    "mlflow", "torch", "jaxtyping", "tokenizers", "safetensors", "numpy", "pyarrow", "pydantic", "tomli-w",
    "huggingface-hub",
)  # fmt: skip
"""What a served model imports besides ddlm, whose code travels with it."""
SERVED_DEFAULTS = {"steps": 64, "seed": 0, "length": 0, "temperature": 0.8, "top_p": 0.95, "unmasking": "random"}
"""What a served model can be asked for, by MLflow's params."""


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

    Waits for MLflow while it is away. Raises: DamageError when an input is not what its manifest says. Unavailable, a
    ConnectionError, when MLflow does not come back.
    """
    digests = {stage: check(folder, verify=True) for stage, folder in workspace.inputs.items()}
    if tracking.backend == "mlflow":
        publish = partial(_publish, workspace, digests, seed=seed, name=name, tracking=tracking)
        publication = patiently(publish, minutes=tracking.wait_minutes, waiting="publish")
    else:
        reason = f"not registered: tracking.backend is {tracking.backend!r}, and only mlflow has a model registry"
        publication = {"registered": False, "reason": reason}
    logger.info("%s", publication["reason"])
    document = {"format_version": FORMAT_VERSION, **publication}
    (workspace.output / "publication.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _publish(
    workspace: Workspace, digests: dict[str, str], *, seed: int, name: str, tracking: TrackingConfig
) -> dict[str, Any]:
    scores = json.loads((workspace.inputs["evaluate"] / SCORES).read_bytes())
    runs = MlflowRuns(tracking.uri)
    runs.open()
    registry = Registry(runs, f"ddlm-{name}")
    version = _register(registry, runs, workspace, name, _identity(scores, digests))
    registry.tag(version, _about(scores) | {f"digest.{stage}": digest for stage, digest in digests.items()})
    before = registry.holder(CHAMPION)
    registry.point(CHALLENGER, version)
    decision = _compare(registry, workspace, version, before, seed)
    if decision.promote and tracking.promotion == "by hand":
        by_hand = f"promotion is by hand: ddlm registry promote {registry.model} {version.number}"
        decision = replace(decision, promote=False, reason=f"{decision.reason}; {by_hand}")
    if decision.promote:
        registry.crown(version)
    publication = _publication(registry.model, version, before, decision)
    if before is None or before.number != version.number:
        registry.describe(version, publication["reason"])
    return publication


def _publication(model: str, version: Version, before: Version | None, decision: Decision) -> dict[str, Any]:
    champion = version if decision.promote else before
    if champion is None:
        verdict = f"{model} version {version.number} is registered and not champion"
    else:
        verdict = f"{model} version {champion.number} {'becomes' if decision.promote else 'stays'} champion"
    return {
        "registered": True,
        "model": model,
        "version": version.number,
        "aliases": {CHALLENGER: version.number} | ({CHAMPION: champion.number} if champion else {}),
        "decision": "promoted" if decision.promote else "kept",
        "champion_before": before.number if before else None,
        "difference_bits_per_byte": decision.difference,
        "interval_bits_per_byte": decision.interval,
        "reason": f"{verdict}: {decision.reason}",
    }


def _identity(scores: dict[str, Any], digests: dict[str, str]) -> dict[str, str]:
    """The tags by which a version is known again: the same weights with the same scores are one version."""
    return {
        "digest.train": digests["train"],
        "data_digest": scores["data_digest"],
        "bits_per_byte": repr(scores["bits_per_byte"]),
        "nll_nats": repr(scores["nll_nats"]),
    }


def _about(scores: dict[str, Any]) -> dict[str, str]:
    """What a list of versions shows besides."""
    return {
        "bits_per_byte_interval": json.dumps(scores.get("bits_per_byte_interval")),
        "bound": scores.get("bound", ""),
    }


def _register(
    registry: Registry, runs: MlflowRuns, workspace: Workspace, name: str, identity: dict[str, str]
) -> Version:
    known = registry.find(identity)
    if known:
        return known
    scores = json.loads((workspace.inputs["evaluate"] / SCORES).read_bytes())
    folder = workspace.scratch / "model"
    _save_model(workspace.inputs["train"], folder, workspace.scratch)
    (folder / SCORES_FOLDER).mkdir()
    for file in (SCORES, ROW_NATS):
        shutil.copy2(workspace.inputs["evaluate"] / file, folder / SCORES_FOLDER / file)
    return registry.add(workspace.run.id or _run_of_its_own(runs, name, scores), folder, identity)


def _run_of_its_own(runs: MlflowRuns, name: str, scores: dict[str, Any]) -> str:
    """For a version whose experiment's run MLflow does not know yet: it was away, and the run waits in the spool."""
    run = runs.start(NewRun(name, "publish", None, {}, origin(), now_ms()))
    runs.metrics(run, [Row(key, value, 0, now_ms()) for key, value in numbers_of(scores).items()])
    runs.end(run, "FINISHED", now_ms())
    return run


def _save_model(model: Path, folder: Path, scratch: Path) -> None:
    """An MLflow model without pickle: the model folder, ddlm's code, and `served.py`, which joins them."""
    named = scratch / "files" / "model"
    for leftover in (folder, named):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(model, named)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow warns of its own type hints while it is imported
        from mlflow import pyfunc

        pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"model": str(named)},
            code_paths=[str(Path(ddlm.__file__).parent)],
            # pip has no "+cpu" builds
            pip_requirements=[f"{name}=={installed(name).partition('+')[0]}" for name in REQUIREMENTS],
            signature=_signature(),
            input_example=(["Once upon a time"], SERVED_DEFAULTS),
        )
    _forget_where_it_was_made(folder)


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    kinds = {int: DataType.long, float: DataType.double, str: DataType.string}
    params = [ParamSpec(name, kinds[type(value)], value) for name, value in SERVED_DEFAULTS.items()]
    texts = Schema([ColSpec(DataType.string)])
    return ModelSignature(texts, texts, ParamSchema(params))


def _forget_where_it_was_made(folder: Path) -> None:
    """MLflow notes absolute paths of the machine that published, which nobody reads and others can see."""
    from mlflow.models import Model

    described = Model.load(str(folder))
    flavor = described.flavors["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    described.save(str(folder / "MLmodel"))


def _compare(
    registry: Registry, workspace: Workspace, version: Version, champion: Version | None, seed: int
) -> Decision:
    """Whether the version replaces the champion. One that can't be judged or measured stays."""
    if champion is None:
        return Decision(True, "it is the first" if len(registry.versions()) == 1 else "no version was champion")
    if champion.number == version.number:
        return Decision(False, "it holds this very model")
    is_same_text = champion.tags.get("data_digest") == version.tags["data_digest"]
    rows = f"{SCORES_FOLDER}/{ROW_NATS}"
    theirs = registry.download_scores(champion, rows, workspace.scratch) if is_same_text else None
    if theirs:
        return decide(read_scores(workspace.inputs["evaluate"] / ROW_NATS), read_scores(theirs), seed=seed)
    why = "since its rows are gone" if is_same_text else "on the new evaluation text"
    return _compare_anew(registry, workspace, champion, seed, why)


def _compare_anew(registry: Registry, workspace: Workspace, champion: Version, seed: int, why: str) -> Decision:
    """The champion is scored anew, on the text that the version was measured on."""
    evaluated = workspace.inputs["evaluate"]
    settings = json.loads((evaluated / SCORES).read_bytes())["settings"]
    try:
        theirs = rescored(fetch(registry, champion), workspace.inputs["corpus"], settings)
    except UserError as error:
        return Decision(False, f"it has to be scored anew {why}, and {error}")
    decision = decide(read_scores(evaluated / ROW_NATS), theirs, seed=seed)
    return replace(decision, reason=f"{decision.reason}, the champion scored anew {why}")


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
