"""The stages: what each reads, what makes it stale, which function builds it. Runs with and without Prefect."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

from ddlm.artifacts import Artifact, ArtifactStore, RunLog, Unlogged, Workspace, digest_of, open_store
from ddlm.config import Unreachable, UserError, home
from ddlm.experiment import Experiment
from ddlm.experiment.datasets import datasets
from ddlm.experiment.fingerprint import fingerprint
from ddlm.experiment.view import Summary, place_of, summarise
from ddlm.tracking import Tracker
from ddlm.tracking.backends import Unavailable
from ddlm.tracking.provenance import name_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One stage.

    sections: the experiment's fields that it reads; its build function takes them as keyword arguments.
    build: `module:function`, called as `function(workspace, **sections)`, with `seed` where the stage is seeded.
    resolve: `module:function` of the sections: what the stage reads from outside, as a JSON document that becomes
        part of the key and is handed to the build function as `source`. Light to import: cached runs call it too.
    is_seeded: whether the experiment's seed can change what it makes; only then it is in the key.
    require: `module:function` of the sections, which refuses before the first stage what this one could not build.
    """

    inputs: tuple[str, ...]
    sections: tuple[str, ...]
    build: str
    resolve: str | None = None
    is_seeded: bool = True
    require: str | None = None


STAGES = {
    "corpus": Stage((), ("corpus",), "ddlm.data.corpus:build", resolve="ddlm.data.sources:resolve", is_seeded=False),
    "tokenizer": Stage(
        ("corpus",), ("tokenizer",), "ddlm.tokenizer:build", resolve="ddlm.tokenizer:resolve", is_seeded=False
    ),
    "shards": Stage(("corpus", "tokenizer"), ("shards",), "ddlm.data.shards:build", is_seeded=False),
    "train": Stage(
        ("tokenizer", "shards"), ("model", "objective", "training"), "ddlm.training.stage:build",
        resolve="ddlm.training.sources:resolve", require="ddlm.training.sources:require",
    ),
    "evaluate": Stage(
        ("corpus", "shards", "train"), ("sampling", "evaluation"), "ddlm.evaluation.stage:build",
        resolve="ddlm.evaluation.sources:resolve",
    ),
    "render": Stage(("train",), ("sampling", "rendering"), "ddlm.rendering.stage:build"),
    "export": Stage(
        ("shards", "train"), ("sampling", "export"), "ddlm.export.stage:build", require="ddlm.export:require"
    ),
    "publish": Stage(("corpus", "train", "evaluate", "export"), ("name", "tracking"), "ddlm.experiment.publish:build"),
}  # fmt: skip
"""In an order in which they can run."""


def require_stage(name: str) -> str:
    """Raises: UserError for a name that no stage has."""
    if name not in STAGES:
        raise UserError(f"unknown stage {name!r}; wanted one of {', '.join(STAGES)}")
    return name


def needed_for(until: str | None) -> list[str]:
    """The stages that must run so that `until` can, itself last; all of them when None."""
    if until is None:
        return list(STAGES)
    wanted = {require_stage(until)}
    for name in reversed(STAGES):
        if name in wanted:
            wanted |= set(STAGES[name].inputs)
    return [name for name in STAGES if name in wanted]


@dataclass
class Session:
    """One run of an experiment: the store, the tracker, and what has been built so far.

    overrides: what was set beyond the experiment's file; its tracked run is named by them.
    log: what stages report to, instead of a tracked run of their own.
    """

    experiment: Experiment
    store: ArtifactStore = field(default_factory=open_store)
    force: frozenset[str] = frozenset()
    verify: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    log: RunLog | None = None
    built: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in self.force:
            require_stage(name)
        require_home()
        place_of(self.experiment.name)
        self._sources: dict[str, Any] = {}
        self.tracker = Tracker(
            self.experiment.tracking,
            experiment=self.experiment.name,
            params=self.experiment.model_dump(mode="json"),
            tags=dict(self.tags),
            name=name_of(self.experiment.name, self.overrides),
        )

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.tracker.fail()

    def require(self, until: str | None = None) -> None:
        """Know before the first stage what a later one would end with, hours on. The first one meets its own at once.

        Raises: UserError for files that are not there and settings that a stage can't build.
        """
        for name in needed_for(until)[1:]:
            self._source(name)
            if demand := STAGES[name].require:
                load(demand)(*self._sections(name))

    def key(self, name: str, inputs: Iterable[Artifact]) -> str:
        """The stage's key: its config, its inputs' digests, the seed if it has one, its source outside and its code."""
        stage = STAGES[name]
        document = {
            "stage": name,
            "seed": self.experiment.seed if stage.is_seeded else None,
            "config": {section: _keyed(getattr(self.experiment, section)) for section in stage.sections},
            "inputs": {artifact.stage: artifact.digest for artifact in inputs},
            "source": self._source(name),
            "code": fingerprint(stage.build.partition(":")[0]),
        }
        return digest_of(document)[:24]

    def find(self, name: str, inputs: Iterable[Artifact]) -> Artifact | None:
        """The finished artifact, unless the stage is forced."""
        if name in self.force and name not in self.built:
            return None
        return self.store.find(name, self.key(name, inputs), verify=self.verify)

    def run(
        self, name: str, inputs: Iterable[Artifact], watched: Callable[[RunLog], RunLog] = lambda run: run
    ) -> tuple[Artifact, bool]:
        """Find or build a stage's artifact. Returns it and whether this call built it.

        Nothing is built from a damaged input. Raises: DamageError naming it and the remedy.

        watched: makes the log that the stage gets from its own, so that a caller hears what is reported.
        """
        inputs = list(inputs)

        def fill(output: Path, scratch: Path) -> None:
            for artifact in inputs:
                artifact.require_whole()
            logger.info("%s: building", name)
            with nullcontext(self.log) if self.log else self.tracker.stage(name) as run:
                folders = {artifact.stage: artifact.path for artifact in inputs}
                self._build(name, Workspace(folders, output, scratch, watched(run)))

        force = name in self.force and name not in self.built
        artifact, built = self.store.build(
            name, self.key(name, inputs), fill, force=force, verify=self.verify, inputs=inputs
        )
        if built:
            self.built.append(name)
        return artifact, built

    def cached(self, until: str | None = None) -> dict[str, Artifact] | None:
        """Every stage's artifact, if none has to be built. Raises: UserError as `require` does."""
        self.require(until)
        done: dict[str, Artifact] = {}
        for name in needed_for(until):
            found = self.find(name, [done[stage] for stage in STAGES[name].inputs])
            if found is None:
                return None
            done[name] = found
        logger.info("nothing to build: %s cached", ", ".join(done))
        return done

    def follow(self, done: Mapping[str, Artifact]) -> None:
        """Train behind torchrun's first rank, which builds the artifact; nothing to do where it has one already."""
        inputs = [done[stage] for stage in STAGES["train"].inputs]
        if self.find("train", inputs) is None:
            scratch = self.store.scratch("train", self.key("train", inputs))
            scratch.mkdir(parents=True, exist_ok=True)
            folders = {artifact.stage: artifact.path for artifact in inputs}
            for artifact in inputs:
                artifact.require_whole()
            with TemporaryDirectory() as output:
                self._build("train", Workspace(folders, Path(output), scratch, Unlogged()))

    def finish(self, done: Mapping[str, Artifact]) -> Summary:
        """Put `outputs/<name>/` together, and close the tracked run with its scores and files, if one was opened."""
        summary = summarise(self.experiment, done, self.built)
        names = ("report.html", "scores.json", "samples.jsonl", "denoising.gif", "bundle", "experiment.toml")
        shown = [summary.folder / name for name in names] + sorted(summary.folder.glob("*.[ps][nv]g"))
        uploads = [(path, "") for path in shown if path.exists()]
        digests = {f"ddlm.digest.{stage}": artifact.digest for stage, artifact in done.items()}
        data = datasets(self.experiment, done) if self.tracker.has_run else []
        self.tracker.finish(summary.scores, uploads, digests | summary.tags, data)
        return summary

    @contextmanager
    def publishing(self, done: Mapping[str, Artifact]) -> Iterator[None]:
        """Around the last stage: without a registry, all that was built is shown none the less.

        Raises: NotPublished.
        """
        try:
            yield
        except Unavailable as error:
            raise NotPublished(self.finish(done), error) from error

    def _build(self, name: str, workspace: Workspace) -> None:
        stage = STAGES[name]
        arguments = {section: getattr(self.experiment, section) for section in stage.sections}
        if stage.resolve:
            arguments["source"] = self._source(name)
        if stage.is_seeded:
            arguments["seed"] = self.experiment.seed
        load(stage.build)(workspace, **arguments)

    def _source(self, name: str) -> Any:
        stage = STAGES[name]
        if stage.resolve and name not in self._sources:
            self._sources[name] = load(stage.resolve)(*self._sections(name))
        return self._sources.get(name)

    def _sections(self, name: str) -> list[Any]:
        return [getattr(self.experiment, section) for section in STAGES[name].sections]


class NotPublished(Unreachable):
    """All is built, and could not be published. The same command does that later, and builds nothing again."""

    def __init__(self, summary: Summary, error: Unavailable) -> None:
        super().__init__(
            f"publish: {error}; all else is built: give the same command again when MLflow answers, "
            "which publishes and builds nothing anew"
        )
        self.summary = replace(summary, decision="not published: MLflow did not answer")


def require_home() -> None:
    """Raises: UserError when the folder of all state can't be made or written."""
    try:
        home().mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=home()):
            pass
    except OSError as error:
        remedy = "set DDLM_HOME to a folder that can be written"
        raise UserError(f"{home()}: can't be written ({error.strerror}); {remedy}") from None


def run_plainly(session: Session, until: str | None = None) -> dict[str, Artifact]:
    """Every stage in order, in this process, without Prefect."""
    session.require(until)
    done: dict[str, Artifact] = {}
    for name in needed_for(until):
        with session.publishing(done) if name == "publish" else nullcontext():
            done[name], built = session.run(name, [done[stage] for stage in STAGES[name].inputs])
        logger.info("%s: %s", name, "built" if built else "cached")
    return done


def load(target: str) -> Any:
    """The object that `module:name` names. Imported late: torch and its friends take seconds."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def _keyed(value: Any) -> Any:
    return value.keyed() if hasattr(value, "keyed") else value
