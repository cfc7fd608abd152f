"""Scoring a model again: a registered version or any folder, on given stories."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ddlm.artifacts import open_store, sha256_file
from ddlm.config import Section, UserError, home, parse, read_toml, with_overrides
from ddlm.diffusion import SamplingConfig
from ddlm.evaluation import BUDGETS, EvaluationConfig
from ddlm.evaluation.measures import headlines, numbers_of
from ddlm.experiment.view import EXPERIMENT, relative
from ddlm.model import registered
from ddlm.model.registered import Registered
from ddlm.model.source import WEIGHTS, find_folder
from ddlm.tracking import Tracker, TrackingConfig

Budget = Literal["quick", "standard", "full"]


class Settings(Section):
    """What decides an evaluation, named as overrides are: SECTION.KEY."""

    evaluation: EvaluationConfig
    sampling: SamplingConfig = SamplingConfig()


@dataclass(frozen=True)
class Rescored:
    """How an evaluation ended. name: of its folder. note: what became of the registered version's tags."""

    name: str
    model: str
    folder: Path
    scores: dict[str, float]
    headlines: list[tuple[str, str]]
    note: str

    def markdown(self) -> str:
        lines = [f"## {self.model}", "", "| score | value |", "|---|---|"]
        lines += [f"| {label} | {value} |" for label, value in self.headlines]
        return "\n".join([*lines, "", f"Report: `{relative(self.folder / 'report.html')}`", "", self.note])


def settings_of(budget: str, overrides: Mapping[str, Any] | None) -> Settings:
    """A budget with overrides. Raises: UserError for an unknown budget, and a key or value that no evaluation has."""
    if budget not in BUDGETS:
        raise UserError(f"unknown budget {budget!r}; wanted one of {', '.join(BUDGETS)}")
    document = {"evaluation": BUDGETS[budget].model_dump(mode="json", exclude_none=True)}
    return parse(Settings, with_overrides(document, overrides or {}), source="evaluate")


def evaluate_model(
    model: str,
    data: str | None,
    settings: Settings,
    *,
    text_field: str | None = None,
    seed: int,
    uri: str | None,
    tags: Mapping[str, str],
) -> Rescored:
    """Score a model on stories, write `evaluations/<model>-<data digest>/`, and track it.

    data: a file or folder; None for the stories that the version was published with, while the store has them.
    text_field: see `read_data`.
    Raises: UserError for a model or data that are not there.
    """
    found = registered.find(model, uri)
    folder, name = _model_folder(model, found)
    stories = read_data(Path(data), folder, text_field) if data is not None else _published_stories(found)
    text_name = Path(data).name if data is not None else None
    params = settings.model_dump(mode="json") | {"seed": seed, "data": data}
    tracker = Tracker(
        TrackingConfig(uri=uri), experiment=found.experiment if found else "evaluations", params=params, tags=tags
    )
    try:
        with tracker.stage("evaluate") as run:
            scores, place = _evaluate(folder, name, stories, settings, seed, text_name)
            numbers = numbers_of(scores)
            run.log(numbers, step=0)
    except BaseException:
        tracker.fail()
        raise
    about = {"data_digest": scores["data_digest"], "ddlm.model": name}
    tracker.finish(numbers, [(place / file, "") for file in ("report.html", "scores.json")], about)
    return Rescored(place.name, name, place, numbers, headlines(scores), _note(found, scores))


def _model_folder(model: str, found: Registered | None) -> tuple[Path, str]:
    """Where the model lies, and what its scores call it."""
    if found:
        return registered.fetch(found.registry, found.version), found.name
    from ddlm.model.folder import read_folder

    folder = find_folder(model)
    read_folder(folder)
    return folder, f"sha256:{sha256_file(folder / WEIGHTS)[:12]}"


def read_data(data: Path, model: Path, text_field: str | None = None) -> list[str]:
    """The stories of a file, or of a folder's validation split.

    model: a model folder. text_field: the column of the text; if absent, the one that the model's corpus was read
    from or, where the file has none such, `text`, as a corpus that ddlm has written has it.
    """
    from ddlm.data.corpus import read_source
    from ddlm.data.sources import NoColumn

    try:
        return read_source(data, text_field=text_field or _own_text_field(model))
    except NoColumn:
        if text_field:
            raise
        return read_source(data)


def _own_text_field(model: Path) -> str:
    """What the model's experiment says, where it lies with the model."""
    experiment = model / EXPERIMENT
    corpus = read_toml(experiment).get("corpus", {}) if experiment.is_file() else {}
    return str(corpus.get("text_field", "text"))


def _published_stories(found: Registered | None) -> list[str]:
    from ddlm.data.corpus import read_stories

    digest = found.version.tags.get("digest.corpus") if found else None
    corpus = next((each for each in open_store() if each.stage == "corpus" and each.digest == digest), None)
    if corpus is None:
        raise UserError("evaluate: the stories that this model was published with are not here; give data")
    corpus.require_whole()
    return read_stories(corpus.path, "validation")


def _evaluate(
    model: Path, name: str, stories: list[str], settings: Settings, seed: int, text_name: str | None
) -> tuple[Mapping[str, Any], Path]:
    """The scores, and the folder that they and the report were written to."""
    from ddlm.evaluation import scores, stage
    from ddlm.generation import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(model, "auto")
    found = scores.evaluate(
        pipeline, stories, model=name, evaluation=settings.evaluation, sampling=settings.sampling, seed=seed,
        layout=pipeline.config.layout, text_name=text_name,
    )  # fmt: skip
    assert found
    slug = name.replace("/", "-").replace(":", "-")
    place = home() / "evaluations" / f"{slug}-{found.scores['data_digest'][:12]}"
    fresh = place.with_name(f".{place.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    stage.write(found, fresh, stories)
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)
    return found.scores, place


def _note(found: Registered | None, scores: Mapping[str, Any]) -> str:
    """Tags a version with scores on the text that it was published with; says why not, else.

    Under names of their own: by those that publishing gave, a version is known again.
    """
    if found is None:
        return "not a registered version, so no version was tagged"
    if found.version.tags.get("data_digest") != scores["data_digest"]:
        return f"{found.name} was published with scores on another text, so its tags stay as they are"
    found.registry.tag(
        found.version, {f"rescored.{name}": repr(scores[name]) for name in ("bits_per_byte", "nll_nats")}
    )
    return f"{found.name} was tagged: the text is the one that it was published with"
