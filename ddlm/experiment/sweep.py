"""Many trials of one experiment that differ in a few settings, and the best of them."""

import csv
import io
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from ddlm.artifacts import Artifact, ArtifactStore, digest_of, write_atomically
from ddlm.config import UserError, dump_toml, home
from ddlm.evaluation.measures import numbers_of
from ddlm.experiment.stages import Session, run_plainly
from ddlm.experiment.trials import VALIDATIONS, Plan, Result, Trial
from ddlm.experiment.view import relative, shareable
from ddlm.tracking import BACKENDS
from ddlm.tracking.outbox import Outbox
from ddlm.tracking.provenance import flat, origin

logger = logging.getLogger(__name__)

RUNS = "runs.json"
SWEEP = "ddlm.sweep"
"""A tag of a sweep's run and of its trials' runs: the sweep's name."""


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended."""

    name: str
    folder: Path
    metric: str
    best: Result
    results: Sequence[Result]

    def markdown(self) -> str:
        choice = ", ".join(f"`{key}` = {value}" for key, value in self.best.choice.items())
        counts = {
            state: sum(each.state == state for each in self.results) for state in ("complete", "pruned", "failed")
        }
        lines = [
            f"## {self.name}",
            f"Trial {self.best.number} is best: {choice}, with {self.metric} {self.best.value:.4f}.",
            ", ".join(f"{count} {state}" for state, count in counts.items()),
            f"`ddlm run {relative(self.folder / 'best.toml')}`",
        ]
        return "\n\n".join(lines)

    def table(self) -> list[dict[str, Any]]:
        return [
            {"trial": each.number, "state": each.state, self.metric: each.value, **each.choice, "reason": each.reason}
            for each in self.results
        ]


class Pruned(Exception):
    """Raised out of a training whose validation is hopeless. Its checkpoints stay."""


@dataclass(frozen=True)
class TrialLog:
    """A trial's tracked run, as `ddlm.artifacts.RunLog` asks for it; stops a hopeless training."""

    outbox: Outbox
    run: str
    trial: Trial
    watched: str
    sign: int

    @property
    def id(self) -> str | None:
        return self.outbox.known(self.run)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Raises: Pruned."""
        self.outbox.log(self.run, metrics, step)
        if self.watched in metrics and self.trial.is_hopeless(self.sign * metrics[self.watched], step):
            raise Pruned

    def upload(self, path: Path, folder: str) -> None:
        self.outbox.upload(self.run, path, folder)


@dataclass
class Sweep:
    """A sweep under way, as a context: one tracked run, with a nested one for each trial. Iterating gives what is left.

    The same plan goes on where it was, in the runs that it had. Raises, on entering: UserError when the name belongs
    to another.
    """

    plan: Plan
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        base = self.plan.base
        self.name = self.plan.name or f"{base.name}-{self.plan.identity[:8]}"
        self.folder = home() / "sweeps" / self.name
        self._held = ExitStack()
        self._keeps_runs = base.tracking.backend == "mlflow"
        backend = BACKENDS[base.tracking.backend](base.tracking.uri)
        self.outbox = Outbox(backend, base.name, home() / "spool", base.tracking.flush_every_s)

    def __enter__(self) -> "Sweep":
        """Another process that runs this sweep is waited for: what it finished need not be run again."""
        with ExitStack() as held:
            held.enter_context(ArtifactStore(home() / "artifacts").lock(f"sweep-{self.name}"))
            self.folder.mkdir(parents=True, exist_ok=True)
            self._runs = self._read_runs()
            self.source = self.plan.source(self.folder)
            self.results = {result.number: result for result in self.source.finished()}
            self.outbox.open()
            params = {"metric": self.plan.metric, "swept": ", ".join(self.plan.values)}
            self.run = self._open(self.name, None, params, {**origin(), **self.tags})
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            self.outbox.end(self.run, "FAILED" if error else "FINISHED")
            self.outbox.close()

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.source)

    def try_out(self, trial: Trial) -> Result:
        """Run a trial as far as its metric needs, and keep how it ended. A mistake in its values fails it alone.

        Raises: UserError for a metric that the evaluation does not have.
        """
        tags = {"ddlm.trial": str(trial.number)}
        run = self._open(f"{self.name} {trial.number}", self.run, flat(trial.choice), tags)
        try:
            result = self._measure(trial, run)
        except BaseException:
            self.outbox.end(run, "KILLED")
            raise
        self.outbox.tag(run, {"ddlm.trial.state": result.state, "data_digest": result.data})
        self.outbox.end(run, "FAILED" if result.state == "failed" else "FINISHED")
        self.source.tell(result)
        self.results[trial.number] = result
        self._write_table()
        logger.info("sweep: trial %d %s, %s %s", trial.number, result.state, self.plan.metric, result.value)
        return result

    def finish(self) -> Outcome:
        """Write best.toml. Raises: UserError when no trial was completed."""
        results = [self.results[number] for number in sorted(self.results)]
        complete = [each for each in results if each.value is not None and math.isfinite(each.value)]
        if not complete:
            reasons = "; ".join(sorted({each.reason for each in results if each.reason})) or "all were pruned"
            raise UserError(f"sweep {self.name}: no trial was completed: {reasons}")
        best = min(complete, key=lambda each: self._sign * (each.value or 0.0))
        write_atomically(self.folder / "best.toml", dump_toml(shareable(self.plan.experiment_of(best.choice))).encode())
        self._write_table()
        self.outbox.log(self.run, {f"best/{self.plan.metric}": best.value or 0.0}, step=0)
        self.outbox.tag(self.run, {"ddlm.best_trial": str(best.number)})
        return Outcome(self.name, self.folder, self.plan.metric, best, results)

    @property
    def _sign(self) -> int:
        return 1 if self.plan.direction == "minimize" else -1

    def _measure(self, trial: Trial, run: str) -> Result:
        try:
            done = self._run_stages(trial, run)
        except Pruned:
            return Result(trial.number, trial.choice, "pruned")
        except UserError as error:
            return Result(trial.number, trial.choice, "failed", reason=str(error))
        numbers = measured(done, self.plan.experiment_of(trial.choice).training.patience)
        if self.plan.metric not in numbers:
            known = ", ".join(sorted(numbers))
            raise UserError(f"sweep: metric {self.plan.metric} was not measured; wanted one of {known}")
        self.outbox.log(run, numbers, step=0)
        data = scores_of(done)["data_digest"] if "evaluate" in done else done["shards"].digest
        return Result(trial.number, trial.choice, "complete", numbers[self.plan.metric], data=data)

    def _run_stages(self, trial: Trial, run: str) -> dict[str, Artifact]:
        """Stages as far as the metric needs them. The curve of a training that was cached is logged here."""
        watched = VALIDATIONS[0] if self.plan.needs_evaluation else self.plan.metric
        sign = self._sign if self.plan.needs_evaluation else 1  # a study's direction is that of its metric
        log = TrialLog(self.outbox, run, trial, watched, sign)
        session = Session(self.plan.experiment_of(trial.choice), log=log)
        done = run_plainly(session, until="evaluate" if self.plan.needs_evaluation else "train")
        if "train" not in session.built:
            for name, points in curve_of(done).items():
                for step, value in points:
                    self.outbox.log(run, {name: value}, int(step))
        return done

    def _write_table(self) -> None:
        results = [self.results[number] for number in sorted(self.results)]
        table = Outcome(self.name, self.folder, self.plan.metric, results[0], results).table()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
        write_atomically(self.folder / "trials.csv", text.getvalue().encode())

    def _read_runs(self) -> dict[str, str]:
        """The tracked runs of this sweep so far, by name and values."""
        path = self.folder / RUNS
        if not path.exists():
            return {}
        found = json.loads(path.read_bytes())
        if found["identity"] != self.plan.identity:
            raise UserError(f"sweep {self.name}: has run with other values or settings; give it another name")
        runs: dict[str, str] = found["runs"]
        return runs

    def _open(self, name: str, parent: str | None, params: Mapping[str, str], tags: Mapping[str, str]) -> str:
        """The run of this name and values, as it was before a kill, or a new one."""
        key = digest_of([parent is None, dict(params)])[:24]
        if key in self._runs:
            return self._runs[key]
        run = self.outbox.start(name, parent, params, {SWEEP: self.name, **tags})
        if self._keeps_runs and self.outbox.known(run):
            self._runs[key] = run
        document = {"identity": self.plan.identity, "runs": self._runs}
        write_atomically(self.folder / RUNS, json.dumps(document, indent=1).encode())
        return run


def scores_of(done: Mapping[str, Artifact]) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads((done["evaluate"].path / "scores.json").read_bytes())
    return scores


def curve_of(done: Mapping[str, Artifact]) -> dict[str, list[tuple[float, float]]]:
    from ddlm.evaluation.stage import read_curve

    return read_curve(done["train"].path / "curve.csv")


def measured(done: Mapping[str, Artifact], patience: int | None) -> dict[str, float]:
    """Every number that a sweep may go by: of the evaluation, or the validation of the weights that were shipped."""
    if "evaluate" in done:
        return numbers_of(scores_of(done))
    curve = curve_of(done)
    step, _ = min(curve[VALIDATIONS[0]], key=lambda point: point[1] if patience else -point[0])
    return {name: dict(curve[name])[step] for name in VALIDATIONS}
