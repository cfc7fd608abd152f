"""Runs in Weights & Biases: one run a stage, grouped under the parent. Its own client keeps what it can't send."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from ddlm.config import UserError, home
from ddlm.tracking.backends import Dataset, NewRun, Row, Status, Unavailable

PROJECT = "ddlm"


class WandbRuns:
    """The backend `wandb`. Raises: UserError when its package is missing."""

    store = "wandb"
    keeps_open = False

    def __init__(self, uri: str | None) -> None:
        if find_spec("wandb") is None:
            raise UserError(
                "tracking.backend = 'wandb' needs the package wandb, which is not installed; "
                "pip install 'ddlm[wandb]', or choose mlflow, jsonl or none"
            )
        self._uri = uri
        self._runs: dict[str, Any] = {}

    def open(self) -> None:
        os.environ.update({"DO_NOT_TRACK": "true", "WANDB_ERROR_REPORTING": "false"})
        home().mkdir(parents=True, exist_ok=True)

    def start(self, run: NewRun) -> str:
        import wandb

        with _reaching():
            opened = wandb.init(
                project=PROJECT,
                group=run.parent,
                job_type=run.name if run.parent else "experiment",
                name=run.name,
                config={**run.params, **run.tags},
                dir=home(),
                reinit="create_new",
                settings=wandb.Settings(base_url=self._uri) if self._uri else None,
            )
        self._runs[opened.id] = opened
        return str(opened.id)

    def metrics(self, run: str, rows: Sequence[Row]) -> None:
        with _reaching():
            for step, group in groupby(rows, key=lambda row: row.step):
                self._runs[run].log({row.key: row.value for row in group}, step=step)

    def tag(self, run: str, tags: Mapping[str, str]) -> None:
        with _reaching():
            self._runs[run].config.update(dict(tags))

    def use(self, run: str, dataset: Dataset) -> None:
        with _reaching():
            self._runs[run].config.update({f"data.{dataset.role}": dataset._asdict()})

    def upload(self, run: str, path: str, folder: str) -> None:
        import wandb

        with _reaching():
            artifact = wandb.Artifact(f"{run}-{Path(path).name}", type="output")
            add = artifact.add_dir if Path(path).is_dir() else artifact.add_file
            add(path, name=f"{folder}/{Path(path).name}".lstrip("/"))
            self._runs[run].log_artifact(artifact)

    def end(self, run: str, status: Status, time_ms: int) -> None:
        del time_ms
        with _reaching():
            self._runs.pop(run).finish(exit_code=0 if status == "FINISHED" else 1)

    def address(self, run: str, file: str) -> str | None:
        """Of a run that has not ended yet; its files have no addresses of their own. Offline there is none."""
        return self._runs[run].url if run in self._runs and not file else None

    def close(self) -> None:
        """Every run has been finished by its end."""


@contextmanager
def _reaching() -> Iterator[None]:
    import wandb

    try:
        yield
    except wandb.errors.Error as error:
        raise Unavailable(f"Weights & Biases: {error}") from error
