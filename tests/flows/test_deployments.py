"""prefect.yaml on a real server with a real worker."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.events import Event

ROOT = Path(__file__).parents[2]
PREFECT = [sys.executable, "-m", "prefect"]

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]


def prefect(*arguments: str) -> str:
    """A Prefect command in the project's folder; what it wrote."""
    done = subprocess.run([*PREFECT, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def deploy_commands() -> list[list[str]]:
    """What `make deploy` would run, as arguments of Prefect."""
    done = subprocess.run(["make", "-n", "deploy"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = re.findall(r"^(?:env -u PWD )?\S*bin/prefect\"? (.*?)(?: \|\| true)?$", done.stdout, re.MULTILINE)
    assert lines
    return [line.split() for line in lines]


def runs_of(flow: str) -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])))


@pytest.fixture(scope="module")
def deployed(server: str) -> Iterator[None]:
    """What `make deploy` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", server)
        patch.delenv("PWD", raising=False)
        for command in deploy_commands():
            prefect(*command)
        yield


@pytest.fixture
def worker(deployed: None, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `make worker` does."""
    monkeypatch.setenv("PREFECT_API_URL", server)
    monkeypatch.setenv("PWD", str(ROOT))
    with working("cpu", tmp_path / "worker.log"):
        yield


@contextmanager
def working(pool: str, log: Path) -> Iterator[None]:
    """A worker that takes as many runs at once as the pool's queues allow."""
    command = [*PREFECT, "worker", "start", "--pool", pool, "--work-queue", "training", "--work-queue", "scheduled"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=out, stderr=out, start_new_session=True)
        yield
        process.send_signal(signal.SIGINT)
        process.wait(60)


def test_the_bare_name_runs_the_whole_pipeline_on_a_worker(worker: None, tmp_path: Path) -> None:
    shown = prefect("deployment", "run", "full-pipeline", "--param", "experiment=configs/tiny.toml", "--watch")
    assert "taken as full-pipeline/full-pipeline" in shown
    (run,) = [run for run in runs_of("full-pipeline") if run.parent_task_run_id is None]  # a retraining has one inside
    assert run.state
    assert run.state.is_completed(), (tmp_path / "worker.log").read_text()
    assert (tmp_path / "outputs" / "tiny" / "model" / "model.safetensors").exists()


def test_retraining_is_scheduled_weekly(deployed: None) -> None:
    deadline = time.monotonic() + 120
    while not (scheduled := [run for run in runs_of("retrain") if run.auto_scheduled]):
        assert time.monotonic() < deadline
        time.sleep(1)
    times = sorted(run.expected_start_time for run in scheduled if run.expected_start_time)
    assert {(later - earlier).days for earlier, later in pairwise(times)} == {7}
    assert {(time.isoweekday(), time.hour) for time in times} == {(7, 3)}


TINY = "experiment=configs/tiny.toml"
SMALL = json.dumps(
    {
        "evaluation.stories": 4,
        "evaluation.num_samples": 2,
        "evaluation.num_continuations": 1,
        "evaluation.chain_rule_stories": 0,
        "evaluation.num_infills": 0,
    }
)


def run_to_its_end(deployment: str, tmp_path: Path, *parameters: str) -> FlowRun:
    """Start a deployment on the worker and wait; the run, which is complete."""
    given = [word for parameter in parameters for word in ("--param", parameter)]
    prefect("deployment", "run", deployment, *given, "--watch")
    run = max(runs_of(deployment.partition("/")[0]), key=lambda run: run.created or 0)
    assert run.state
    assert run.state.is_completed(), (tmp_path / "worker.log").read_text()
    return run


def ask(server: str, path: str, **filters: Any) -> Any:
    return httpx.post(f"{server}/{path}/filter", json=filters).raise_for_status().json()


def test_pools_have_their_queues_with_priorities_and_limits(deployed: None, server: str) -> None:
    for pool in ("cpu", "gpu"):
        queues = {each["name"]: each for each in ask(server, f"work_pools/{pool}/queues")}
        found = {
            name: (queues[name]["priority"], queues[name]["concurrency_limit"]) for name in ("training", "scheduled")
        }
        assert found == {"training": (1, 1), "scheduled": (5, 1)}


def test_every_deployment_stands_in_its_pool_and_checks_its_parameters(deployed: None, server: str) -> None:
    found = {each["name"]: each for each in ask(server, "deployments")}
    pools = {name: (each["work_pool_name"], each["work_queue_name"]) for name, each in found.items()}
    assert pools == {
        "full-pipeline": ("cpu", "training"),
        "full-pipeline-gpu": ("gpu", "training"),
        "retrain": ("cpu", "scheduled"),
        "evaluate": ("cpu", "training"),
        "sweep": ("cpu", "training"),
        "sweep-gpu": ("gpu", "training"),
        "compare": ("cpu", "training"),
    }
    for each in found.values():
        assert each["enforce_parameter_schema"]
        assert each["tags"]
        assert all(field["description"] for field in each["parameter_openapi_schema"]["properties"].values())


def test_a_wrong_parameter_is_refused_before_a_run_exists(deployed: None) -> None:
    done = subprocess.run(
        [*PREFECT, "deployment", "run", "evaluate/evaluate", "--param", "budget=huge"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode
    assert "'huge' is not one of ['quick', 'standard', 'full']" in done.stdout + done.stderr
    assert runs_of("evaluate") == []


def test_a_corpus_event_starts_a_retraining_of_its_experiment(deployed: None, server: str) -> None:
    triggers = [each["trigger"] for each in ask(server, "automations") if each["enabled"]]
    assert [each["match"] for each in triggers if each.get("expect") == ["ddlm.corpus.updated"]] == [
        {"prefect.resource.id": "ddlm.corpus.*"}
    ]
    before = {run.id for run in runs_of("retrain")}  # the pipeline of another test had a new corpus too
    anyone = {"prefect.resource.id": "ddlm.corpus.mine"}
    wanted = {"experiment": "configs/tiny.toml", "overrides": {"seed": 7}}
    bare = Event(event="ddlm.corpus.updated", resource=anyone)
    for event in (bare, Event(event="ddlm.corpus.updated", resource=anyone, payload=wanted)):
        httpx.post(f"{server}/events", json=[json.loads(event.model_dump_json())]).raise_for_status()
    deadline = time.monotonic() + 120
    started: list[dict[str, Any]] = []
    while len(started) < 2 and time.monotonic() < deadline:
        found = [run for run in runs_of("retrain") if not run.auto_scheduled and run.id not in before]
        started = [run.parameters for run in found]
        time.sleep(1)
    for run in found:  # else the worker of the next test would train them
        httpx.delete(f"{server}/flow_runs/{run.id}").raise_for_status()
    assert sorted(started, key=str) == sorted([wanted, {"experiment": "configs/quick.toml", "overrides": {}}], key=str)


def test_a_sweep_then_a_comparison_then_an_evaluation_of_the_champion(worker: None, tmp_path: Path) -> None:
    grid = 'grid={"training.learning_rate": [0.001, 0.01]}'
    run_to_its_end("sweep/sweep", tmp_path, TINY, grid, "metric=val/bits_per_byte", "name=rates")
    folder = tmp_path / "outputs" / "sweeps" / "rates"
    assert "learning_rate = 0.01" in (folder / "best.toml").read_text()
    run_to_its_end("compare/compare", tmp_path, "experiment=tiny", "name=rates")
    lines = list(csv.DictReader((tmp_path / "outputs/comparisons/rates/comparison.csv").read_text().splitlines()))
    assert [(line["rank"], line["training.learning_rate"]) for line in lines] == [("1", "0.01"), ("2", "0.001")]
    run_to_its_end("full-pipeline/full-pipeline", tmp_path, TINY, f"overrides={SMALL}")
    run_to_its_end("evaluate/evaluate", tmp_path, "model=ddlm-tiny@champion", "budget=quick", f"overrides={SMALL}")
    (report,) = (tmp_path / "outputs" / "evaluations").glob("ddlm-tiny-1-*/report.html")
    assert "</html>" in report.read_text()


def test_ten_runs_queued_on_one_gpu_slot_run_one_after_another_and_none_is_lost(
    deployed: None, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server)
    monkeypatch.setenv("PWD", str(ROOT))
    asked = {"experiment": "configs/tiny.toml", "until": "corpus"}
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("full-pipeline/full-pipeline-gpu")
        ids = [client.create_flow_run_from_deployment(deployment.id, parameters=asked).id for _ in range(10)]
        with working("gpu", tmp_path / "gpu.log"):
            wait_until(lambda: all(client.read_flow_run(run).state.is_final() for run in ids), tmp_path / "gpu.log")
        runs = sorted((client.read_flow_run(run) for run in ids), key=lambda run: run.start_time)
    assert [run.state_name for run in runs] == ["Completed"] * 10, (tmp_path / "gpu.log").read_text()
    assert {run.run_count for run in runs} == {1}
    for earlier, later in pairwise(runs):
        assert earlier.end_time <= later.start_time


def wait_until(holds: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 600
    while not holds():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(1)


def schedules() -> tuple[int, str]:
    done = subprocess.run([sys.executable, "infra/schedules.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_schedule_says_when_it_runs_next_and_why_it_never_will(worker: None, server: str) -> None:
    (retrain,) = [each for each in ask(server, "deployments") if each["name"] == "retrain"]
    page = f"{server}/deployments/{retrain['id']}"
    (schedule,) = retrain["schedules"]

    def change(path: str, **values: Any) -> None:
        """A server whose database is locked for a moment asks to be asked again."""
        wait_until(lambda: httpx.patch(f"{page}{path}", json=values).status_code != 503, ROOT / "prefect.yaml")

    wait_until(lambda: schedules()[0] == 0, ROOT / "prefect.yaml")  # the worker has said that it is there
    assert re.fullmatch(r"retrain, 0 3 \* \* 0: next Sun \d{4}-\d\d-\d\d 03:00 UTC\n", schedules()[1])
    try:
        change("", work_pool_name="gpu", work_queue_name="scheduled")
        change(f"/schedules/{schedule['id']}", schedule={"cron": "0 3 31 2 *", "timezone": "UTC"})
        assert schedules() == (
            1,
            "retrain, 0 3 31 2 *: never runs: no date fits it; mend it in prefect.yaml, then make deploy\n",
        )
        change(f"/schedules/{schedule['id']}", active=False)
        assert "never runs: the schedule is not active; set active: true" in schedules()[1]
    finally:
        prefect(*next(command for command in deploy_commands() if "deploy" in command))


def test_a_worker_may_take_the_code_from_a_repository(
    worker: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    for name in ("flows", "tasks", "ddlm", "configs"):
        shutil.copytree(ROOT / name, repository / name, ignore=shutil.ignore_patterns("__pycache__"))
    (repository / "configs" / "cloned.toml").write_text((ROOT / "configs" / "tiny.toml").read_text())
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], [*identity, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    document = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    document["pull"] = document["definitions"]["from_git"]
    (repository / "prefect.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setenv("DDLM_REPOSITORY", repository.as_uri())
    monkeypatch.setenv("DDLM_BRANCH", "main")
    deploy = [*PREFECT, "--no-prompt", "deploy", "--name", "compare", "--name", "full-pipeline"]
    subprocess.run(deploy, cwd=repository, check=True, capture_output=True)
    parameters = ("experiment=configs/cloned.toml", "until=corpus")
    run_to_its_end("full-pipeline/full-pipeline", tmp_path, *parameters)
    assert list((tmp_path / "outputs" / "artifacts" / "corpus").iterdir())
