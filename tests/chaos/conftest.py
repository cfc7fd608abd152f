"""A control plane of the tests' own, a tiny training on it, and what must be true of a run that was broken."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed

from ddlm.artifacts import MANIFEST, check
from ddlm.tracking.mlflow_client import connect

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0
LONG = {
    "training.steps": 800,
    "training.log_every_steps": 10,
    "training.validate_every_steps": 400,
    "training.save_every_steps": 50,
}
"""A training of some 15 seconds on one free core, with a checkpoint every second."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    is_so: Callable[[], Any], says: Callable[[], object] = lambda: "", patience_s: float = PATIENCE_S
) -> Any:
    deadline = time.monotonic() + patience_s
    while not (found := is_so()):
        assert time.monotonic() < deadline, says()
        time.sleep(0.2)
    return found


@dataclass
class Plane:
    """Prefect, MLflow and a worker, as `make server` starts them."""

    home: Path
    prefect_port: int
    mlflow_port: int

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "DDLM_HOME": str(self.home),
            "PREFECT_PORT": str(self.prefect_port),
            "MLFLOW_PORT": str(self.mlflow_port),
            "OMP_NUM_THREADS": "1",
        }
        return {**os.environ, **own}

    @property
    def client(self) -> SyncPrefectClient:
        return SyncPrefectClient(f"http://127.0.0.1:{self.prefect_port}/api")

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.mlflow_port}"

    def local(self, action: str) -> str:
        command = [sys.executable, "infra/local.py", action]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def process(self, service: str) -> psutil.Process:
        return psutil.Process(json.loads((self.home / "control" / f"{service}.json").read_text())["pid"])

    def kill(self, service: str) -> None:
        """kill -9, and no farewell: of a server all its processes, of the worker not the runs that it started."""
        process = self.process(service)
        for each in [process, *(process.children() if service != "worker" else ())]:
            self.end(each)

    wait_until = staticmethod(wait_until)

    def stays(self, run: UUID, name: str, for_s: float) -> None:
        until = time.monotonic() + for_s
        while time.monotonic() < until:
            assert self.is_in(run, name), self.story(run)
            time.sleep(1)

    @staticmethod
    def end(process: psutil.Process, number: int = signal.SIGKILL) -> None:
        """Send a signal and wait until the process is gone; half a minute is what a training may take to save."""
        process.send_signal(number)
        wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, patience_s=30)

    def leave_to_the_tests(self) -> None:
        """A new corpus would start a retraining of its own, which waits for the same locks."""
        with self.client as client:
            for automation in client.read_automations():
                if not automation.name.startswith("ddlm: "):
                    client.pause_automation(automation.id)

    def submit(self, seed: int, until: str = "train", **overrides: Any) -> UUID:
        """A run of the deployment full-pipeline."""
        settings = {**LONG, "seed": seed, "name": f"chaos-{seed}", **overrides}
        parameters = {"experiment": "configs/tiny.toml", "overrides": settings, "until": until}
        with self.client as client:
            deployment = client.read_deployment_by_name("full-pipeline/full-pipeline")
            return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id

    def crash(self, run: UUID) -> None:
        """What a worker reports of a run whose process ended."""
        with self.client as client:
            client.set_flow_run_state(run, Crashed(), force=True)

    def acted_on(self, run: UUID) -> list[str]:
        """What automations did about the run, or tried to."""
        wanted = {"filter": {"event": {"prefix": ["prefect.automation.action."]}}, "limit": 50}
        found = httpx.post(f"http://127.0.0.1:{self.prefect_port}/api/events/filter", json=wanted).json()["events"]
        return [each["event"] for each in found if str(run) in json.dumps(each)]

    def run(self, run: UUID) -> FlowRun:
        with self.client as client:
            return client.read_flow_run(run)

    def is_in(self, run: UUID, *names: str) -> bool:
        return self.run(run).state_name in names

    def wait_for(self, run: UUID, *names: str, patience_s: float = PATIENCE_S) -> None:
        wait_until(lambda: self.is_in(run, *names), lambda: self.story(run), patience_s)

    def story(self, run: UUID) -> str:
        """What there is to say of a run that did not become what it should."""
        with self.client as client:
            states = [f"{state.name}: {state.message}" for state in client.read_flow_run_states(run)]
        log = (self.home / "control" / "worker.log").read_text()
        return "\n".join([*states, log[-6000:]])

    def process_of(self, run: UUID) -> psutil.Process:
        """The process in which the run's flow is going on."""

        def find() -> psutil.Process | None:
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    is_its = process.environ().get("PREFECT__FLOW_RUN_ID") == str(run)
                    if is_its and "prefect.engine" in process.cmdline():
                        return process
            return None

        return wait_until(find)

    def checkpoints(self) -> list[int]:
        """Steps of the newest training's whole checkpoints."""
        scratch = max(self.home.glob("artifacts/.scratch/train-*"), key=lambda path: path.stat().st_ctime, default=None)
        return sorted(int(path.name[5:]) for path in scratch.glob("step-*")) if scratch else []

    def wait_until_training(self, run: UUID) -> None:
        """Until a training that was not there yet has saved twice."""
        known = set(self.home.glob("artifacts/.scratch/train-*/step-00000100"))

        def has_saved() -> bool:
            state = self.run(run).state
            assert not (state and state.is_final()), self.story(run)
            return bool(set(self.home.glob("artifacts/.scratch/train-*/step-00000100")) - known)

        wait_until(has_saved, lambda: self.story(run))

    def built(self) -> dict[Path, int]:
        """When each finished artifact was sealed."""
        return {path: path.stat().st_mtime_ns for path in self.home.glob(f"artifacts/[!.]*/*/{MANIFEST}")}

    def steps(self, run: UUID) -> list[int]:
        """Steps in MLflow's record of the attempt at this flow run in which the training came to its end, as often as
        they stand there.
        """
        client = connect(self.mlflow)
        experiments = [each.experiment_id for each in client.search_experiments()]
        attempts = client.search_runs(experiments, f"tags.`prefect.flow_run_id` = '{run}'")
        (whole,) = [
            each
            for each in attempts
            if "stage/train_s" in each.data.metrics and each.data.tags.get("ddlm.failed_stage") != "train"
        ]
        return [point.step for point in client.get_metric_history(whole.info.run_id, "train/nll_nats")]

    def curve(self, run: UUID) -> list[int]:
        """Steps of the curve that the run's training wrote."""
        name = self.run(run).parameters["overrides"]["name"]
        used = json.loads((self.home / name / "artifacts.json").read_text())
        with (self.home / "artifacts" / used["train"] / "curve.csv").open() as handle:
            return [int(row["step"]) for row in csv.DictReader(handle)]

    def trained(self, run: UUID) -> list[int]:
        """The steps that its log names, in the order in which they were taken."""
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))
        found: list[Any] = []
        with self.client as client:
            while page := client.read_logs(wanted, limit=200, offset=len(found)):
                found += page
        said = [line.message.split() for line in sorted(found, key=lambda line: line.timestamp)]
        return [int(words[2]) for words in said if words[:2] == ["train:", "step"]]

    def require_continued(self, run: UUID, saved: int, before: dict[Path, int]) -> None:
        """The run ends; what was finished was not built again; training went on behind the step that was saved."""
        self.wait_for(run, "Completed")
        assert before.items() <= self.built().items()
        steps = self.trained(run)
        again = next((index for index in range(1, len(steps)) if steps[index] <= steps[index - 1]), len(steps))
        assert all(step > saved for step in steps[again:])
        self.require_whole(run)

    def require_nothing_redone(self, run: UUID) -> None:
        """It saved at the step where it was stopped."""
        steps = self.trained(run)
        assert len(steps) == len(set(steps))

    def require_whole(self, run: UUID) -> None:
        """Nothing half is visible; the curve and the tracked metrics have every reported step exactly once."""
        for folder in self.home.glob("artifacts/[!.]*/*"):
            check(folder, verify=True)
        every = [*range(10, LONG["training.steps"] + 1, 10)]
        assert self.curve(run) == every
        assert sorted(self.steps(run)) == every


@pytest.fixture(scope="session")
def a_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    plane = Plane(tmp_path_factory.mktemp("plane"), free_port(), free_port())
    try:
        plane.local("start")
        plane.leave_to_the_tests()
        yield plane
    finally:
        plane.local("stop")


@pytest.fixture
def plane(a_plane: Plane) -> Plane:
    """Whole again, whatever the test before it broke."""
    a_plane.local("start")
    return a_plane


@pytest.fixture
def settings() -> list[str]:
    """The long training for the command line."""
    overrides = {**LONG, "tracking.backend": "none"}
    return [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
