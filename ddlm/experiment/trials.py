"""What a sweep tries, and where its trials come from: every point of a grid, or an Optuna study."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field, model_validator

from ddlm.artifacts import digest_of
from ddlm.config import Section, UserError, dump_toml, installing
from ddlm.experiment import Experiment, load_experiment
from ddlm.experiment.view import require_folder_name

if TYPE_CHECKING:
    import optuna

Direction = Literal["minimize", "maximize"]
State = Literal["complete", "pruned", "failed"]
REASON = "reason"
SCORES = "evaluation/"
VALIDATIONS = ("val/bits_per_byte", "val/nll_nats", "val/accuracy")


class Range(Section):
    """What a study may choose for one key: a number between two, or one of some choices."""

    low: int | float | None = Field(default=None, title="Lowest value")
    high: int | float | None = Field(default=None, title="Highest value")
    log: bool = Field(default=False, title="Spread evenly over the logarithm")
    choices: list[bool | int | float | str] | None = Field(default=None, title="One of these instead", min_length=1)

    @model_validator(mode="after")
    def _bounds_or_choices(self) -> "Range":
        low, high = self.low, self.high
        if (low is None) != (high is None) or (low is None) == (self.choices is None):
            raise ValueError("wanted low and high, or choices")
        if low is not None and high is not None and not (math.inf if self.log and low <= 0 else low) < high:
            raise ValueError("wanted low below high, and above 0 for a logarithm")
        return self

    @property
    def ends(self) -> list[Any]:
        """Values that stand for all of them."""
        return self.choices or [self.low, self.high]

    def suggest(self, trial: "optuna.Trial", key: str) -> Any:
        if self.choices:
            return trial.suggest_categorical(key, self.choices)
        assert self.low is not None
        assert self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Result:
    """How a trial ended. value: of the metric, when complete. reason: of a failure. data: what it was measured on."""

    number: int
    choice: Mapping[str, Any]
    state: State
    value: float | None = None
    reason: str = ""
    data: str = ""


class Trial(Protocol):
    """One choice of values."""

    @property
    def number(self) -> int: ...
    @property
    def choice(self) -> Mapping[str, Any]: ...

    def is_hopeless(self, value: float, step: int) -> bool:
        """Whether to stop training, whose validation at this step is `value`."""


class Source(Protocol):
    """Hands out trials and hears how they ended."""

    def __iter__(self) -> Iterator[Trial]:
        """Those that are still to be run."""

    def finished(self) -> list[Result]:
        """Those that need not be run again."""

    def tell(self, result: Result) -> None: ...


@dataclass(frozen=True)
class Point:
    """A trial of a grid."""

    number: int
    choice: Mapping[str, Any]

    def is_hopeless(self, value: float, step: int) -> bool:
        del value, step
        return False


@dataclass(frozen=True)
class Grid:
    """Every combination, in order. It remembers nothing: what has run is cached by its stages' keys."""

    values: Mapping[str, Sequence[Any]]

    def __iter__(self) -> Iterator[Point]:
        for number, point in enumerate(product(*self.values.values())):
            yield Point(number, dict(zip(self.values, point, strict=True)))

    def finished(self) -> list[Result]:
        return []

    def tell(self, result: Result) -> None:
        del result


@dataclass(frozen=True)
class Asked:
    """A trial of a study. Pruned when its validation is worse than the median of the earlier ones' at that step."""

    inner: "optuna.Trial"
    choice: Mapping[str, Any]
    prunes: bool

    @property
    def number(self) -> int:
        return self.inner.number

    def is_hopeless(self, value: float, step: int) -> bool:
        self.inner.report(value, step)
        return self.prunes and self.inner.should_prune()


@dataclass
class Study:
    """A seeded Optuna study that outlives a kill: its database lies in `folder`.

    Raises: UserError without Optuna.
    """

    space: Mapping[str, Range]
    trials: int
    direction: Direction
    prunes: bool
    seed: int
    folder: Path
    _asked: dict[int, "optuna.Trial"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            import optuna
        except ImportError:
            raise UserError(
                f"sweep: a study needs Optuna, which is not installed; run {installing('sweep')}, or give a grid"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            study_name="sweep", storage=f"sqlite:///{self.folder / 'study.db'}", direction=self.direction,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=3), load_if_exists=True,
        )  # fmt: skip
        for trial in self._study.get_trials(states=[optuna.trial.TrialState.RUNNING]):  # a kill left it
            self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            self._study.enqueue_trial(trial.params)

    def __iter__(self) -> Iterator[Asked]:
        from optuna.samplers import TPESampler

        while (done := len(self.finished())) < self.trials:
            # Seeded for each trial: a study that goes on after a kill asks what it would have asked.
            self._study.sampler = TPESampler(seed=self.seed * 1_000_003 + done)
            trial = self._study.ask()
            self._asked[trial.number] = trial
            yield Asked(trial, {key: each.suggest(trial, key) for key, each in self.space.items()}, self.prunes)

    def finished(self) -> list[Result]:
        states: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
        return [
            Result(
                trial.number, trial.params, states[trial.state.name],
                trial.value if trial.state.name == "COMPLETE" else None, trial.user_attrs.get(REASON, ""),
            )
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state.name in ("COMPLETE", "PRUNED") or trial.user_attrs.get(REASON)
        ]  # fmt: skip

    def tell(self, result: Result) -> None:
        from optuna.trial import TrialState

        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        trial = self._asked.pop(result.number)
        if result.reason:
            trial.set_user_attr(REASON, result.reason)
        self._study.tell(trial, result.value, states[result.state])


@dataclass(frozen=True)
class Plan:
    """What a sweep tries: every point of a grid, or `trials` of a study. Experiments are loaded from their file."""

    experiment: str
    overrides: Mapping[str, Any]
    grid: Mapping[str, Sequence[Any]] | None = None
    study: Mapping[str, Range] | None = None
    trials: int = 20
    metric: str = f"{SCORES}bits_per_byte"
    direction: Direction = "minimize"
    prune: bool = True
    name: str | None = None

    def __post_init__(self) -> None:
        """Every key and value is tried on the config before the first trial. Raises: UserError."""
        if (self.grid is None) == (self.study is None):
            raise UserError(f"sweep: got {'neither' if self.grid is None else 'both'}; give either a grid or a study")
        for key, values in self.values.items():
            for value in values:
                self.experiment_of({key: value})
        if not self.values or not all(self.values.values()):
            empty = next((key for key, values in self.values.items() if not values), "the grid or study")
            raise UserError(f'sweep: {empty} has no values to try; write, for example, {{"model.num_layers": [2, 4]}}')
        if self.name is not None:
            require_folder_name(self.name)
        if not self.needs_evaluation and self.metric not in VALIDATIONS:
            raise UserError(f"sweep: metric {self.metric!r}; wanted evaluation/… or one of {', '.join(VALIDATIONS)}")

    @property
    def values(self) -> dict[str, list[Any]]:
        """By key, all values of a grid, the ends of a study's ranges."""
        grid = {key: list(values) for key, values in (self.grid or {}).items()}
        return grid | {key: each.ends for key, each in (self.study or {}).items()}

    @property
    def identity(self) -> str:
        """What trials of one sweep have in common; how many there are may change."""
        study = {key: each.model_dump(mode="json") for key, each in (self.study or {}).items()}
        return digest_of([dump_toml(self.base), self.grid or study, self.metric, self.direction])

    @property
    def needs_evaluation(self) -> bool:
        return self.metric.startswith(SCORES)

    @property
    def base(self) -> Experiment:
        return self.experiment_of({})

    def experiment_of(self, choice: Mapping[str, Any]) -> Experiment:
        return load_experiment(self.experiment, {**self.overrides, **choice})

    def source(self, folder: Path) -> Source:
        """Where the trials come from. Ranks can't be stopped in the middle, so only one process is pruned."""
        if self.grid is not None:
            return Grid(self.grid)
        assert self.study is not None
        prunes = self.prune and self.base.training.processes == 1
        return Study(self.study, self.trials, self.direction, prunes, self.base.seed, folder)
