"""Runs of an MLflow store beside each other. Only what was measured on the same text is ranked together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ddlm.config import UserError
from ddlm.tracking.backends import Refused
from ddlm.tracking.mlflow_runs import MlflowRuns

if TYPE_CHECKING:
    from mlflow.entities import Run

CURVE = "val/bits_per_byte"
RANKED_BY = "bits_per_byte"
SCORES = (
    RANKED_BY, "nll_nats", "masked_accuracy", "seed_protocols.S3.loss", "seed_protocols.S3.accuracy", "bleu",
    "self_bleu", CURVE,
)  # fmt: skip
"""The scores that are shown, of those that a run has."""
UNKNOWN = "unknown"
MOST_RUNS = 1000
"""The newest ones of a search: more lines nobody reads."""
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class TrackedRun:
    """A run. data: the digest of the text that its scores were measured on. curve: validation by step."""

    id: str
    name: str
    data: str
    params: Mapping[str, str]
    scores: Mapping[str, float]
    curve: Points

    @property
    def value(self) -> float | None:
        """What it is ranked by: the evaluation's bound, else the last validation."""
        return self.scores.get(RANKED_BY, self.scores.get(CURVE))


@dataclass(frozen=True)
class Group:
    """Runs measured on the same text, the best first; those without a score at the end."""

    data: str
    runs: Sequence[TrackedRun]

    @property
    def text(self) -> str:
        """Short enough for a table."""
        return self.data[:12] or UNKNOWN


@dataclass(frozen=True)
class Choice:
    """Which runs: of an experiment, by id, or by one of MLflow's filters; all that is given holds together."""

    experiment: str | None = None
    run_ids: Sequence[str] = ()
    filter: str | None = None

    def __str__(self) -> str:
        given = {"experiment": self.experiment, "run_ids": ", ".join(self.run_ids), "filter": self.filter}
        return "; ".join(f"{name} {value!r}" for name, value in given.items() if value) or "no choice"


@dataclass
class RunSearch:
    """Finds runs. Raises: UserError when there are none or the filter is not MLflow's. Unavailable without MLflow."""

    uri: str | None = None
    runs: MlflowRuns = field(init=False)

    def __post_init__(self) -> None:
        self.runs = MlflowRuns(self.uri)
        self.runs.open()

    def find(self, choice: Choice) -> list[TrackedRun]:
        """Runs with scores; stages of a run and the frames around sweeps only where they are named by id."""
        try:
            with self.runs.reaching():
                found = self._by_id(choice.run_ids) if choice.run_ids else self._by_filter(choice)
                tracked = [self._tracked(run) for run in found]
        except Refused as error:
            raise UserError(f"compare: {choice}: {error}; mend the ids or the filter") from None
        scored = tracked if choice.run_ids else [run for run in tracked if run.value is not None]
        if not scored:
            raise UserError(f"compare: no runs found for {choice} in {self.runs.store}; known: {self._experiments()}")
        return scored

    def _by_id(self, run_ids: Iterable[str]) -> list["Run"]:
        return [self.runs.client.get_run(run_id) for run_id in run_ids]

    def _by_filter(self, choice: Choice) -> list["Run"]:
        client = self.runs.client
        wanted = f"name = '{choice.experiment}'" if choice.experiment else None
        experiments = [each.experiment_id for each in client.search_experiments(filter_string=wanted)]
        if not experiments:
            return []
        found = client.search_runs(experiments, choice.filter or "", max_results=MOST_RUNS)
        return [run for run in found if "ddlm.stage" not in run.data.tags]

    def _tracked(self, run: "Run") -> TrackedRun:
        scores = {standard_name(key): value for key, value in run.data.metrics.items()}
        return TrackedRun(
            run.info.run_id,
            run.info.run_name or "",
            run.data.tags.get("data_digest", ""),
            run.data.params,
            {name: scores[name] for name in SCORES if name in scores},
            self._curve(run),
        )

    def _curve(self, run: "Run") -> Points:
        """Of the run itself, else of the training stage below it."""
        client = self.runs.client
        history = client.get_metric_history(run.info.run_id, CURVE)
        if not history:
            below = f"tags.`mlflow.parentRunId` = '{run.info.run_id}' and tags.`ddlm.stage` = 'train'"
            stages = client.search_runs([run.info.experiment_id], below, max_results=1)
            history = client.get_metric_history(stages[0].info.run_id, CURVE) if stages else []
        return sorted({(float(point.step), float(point.value)) for point in history})

    def _experiments(self) -> str:
        names = sorted(each.name for each in self.runs.client.search_experiments() if each.name != "Default")
        return ", ".join(names) or "no experiment"


def standard_name(metric: str) -> str:
    """`evaluation/seed_protocols/S3/loss` as `seed_protocols.S3.loss`, as older runs have it."""
    name = metric.removeprefix("evaluation/")
    return name if name == metric else name.replace("/", ".")


def grouped(runs: Iterable[TrackedRun]) -> list[Group]:
    """By the text that they were measured on; within a text, the lowest number first."""
    by_data: dict[str, list[TrackedRun]] = {}
    for run in runs:
        by_data.setdefault(run.data, []).append(run)

    def order(run: TrackedRun) -> tuple[bool, float, str]:
        return run.value is None, run.value or 0.0, run.id

    return [Group(data, sorted(each, key=order)) for data, each in sorted(by_data.items())]


def differing(runs: Sequence[TrackedRun]) -> list[str]:
    """The parameters that have several values; a run that does not say has none."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in run.params.items():
            values.setdefault(name, set()).add(value)
    return sorted(name for name, found in values.items() if len(found) > 1)


def rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row a run. No rank where nobody knows what text a score was measured on."""
    runs = [run for group in groups for run in group.runs]
    params, scores = differing(runs), [name for name in SCORES if any(name in run.scores for run in runs)]
    return [
        {
            "text": group.text,
            "rank": rank if group.data and run.value is not None else None,
            "run": run.name,
            "id": run.id,
            **{name: run.params.get(name) for name in params},
            **{name: run.scores.get(name) for name in scores},
        }
        for group in groups
        for rank, run in enumerate(group.runs, 1)
    ]
