"""The control plane as infra/control-plane.md starts it: two workers that share no disk, PostgreSQL, MLflow, S3."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from uuid import UUID

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.artifacts import list_artifacts
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_API_URL, temporary_settings

from ddlm.experiment.stages import STAGES

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
SECRETS, POSTGRES, PREFECT, MLFLOW = re.findall(
    r"^```bash\n(.*?)^```", (INFRA / "control-plane.md").read_text(), re.MULTILINE | re.DOTALL
)
IS_ROOT = os.geteuid() == 0
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))

needs_postgres = pytest.mark.skipif(not BINARIES, reason="PostgreSQL is not installed: apt-get install postgresql")


def services() -> dict[str, dict[str, Any]]:
    document: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return dict(document["services"])


@pytest.mark.parametrize("name", services())
def test_a_composed_service_is_pinned_watched_and_on_loopback_alone(name: str) -> None:
    service = services()[name]
    assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    health = service["healthcheck"]
    assert health.get("test") or (health["disable"] and service["restart"] == "no")
    for condition in service.get("depends_on", {}).values():
        assert condition["condition"] in ("service_healthy", "service_completed_successfully")


def test_composed_secrets_are_the_files_that_the_commands_write() -> None:
    document = yaml.safe_load((INFRA / "compose.yaml").read_text())
    files = {Path(secret["file"]).name for secret in document["secrets"].values()}
    assert files == set(re.findall(r"> (\w\S+)$", SECRETS, re.MULTILINE))
    used = {secret for service in document["services"].values() for secret in service["secrets"]}
    assert used == document["secrets"].keys()
    for service in document["services"].values():
        for key, value in service.get("environment", {}).items():
            is_secret = re.search("PASS|SECRET|KEY|CREDENTIALS", key)
            assert not is_secret or value.startswith("/run/secrets/"), key
        assert not re.search(r"://[^/@\s]*:[^/@\s]*@", str(service))


def test_the_base_image_of_the_composed_servers_is_pinned() -> None:
    image = services()["prefect"]["build"]["dockerfile_inline"]
    assert re.search(r"^FROM [\w/-]+:\d+\.\d+\.\d+-\S+$", image, re.MULTILINE)
    assert "-c /constraints.txt" in image


@dataclass
class Plane:
    """Where everything answers. environment: of the commands; it names no password."""

    folder: Path
    environment: dict[str, str]
    prefect: str
    mlflow: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(script: str, environment: dict[str, str]) -> None:
    done = subprocess.run(["bash", "-euc", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def process(arguments: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process and its children, stopped by their group's id."""
    with log.open("wb") as out:
        started = subprocess.Popen(
            arguments,
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield started
        finally:
            os.killpg(started.pid, signal.SIGINT)
            try:
                started.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()


def wait_until(holds: Callable[[], object], log: Path, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)


def answers(address: str) -> bool:
    try:
        urlopen(address, timeout=2).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where PostgreSQL's user may go, which pytest's own folders are closed to."""
    path = Path(tempfile.mkdtemp(prefix="ddlm-control-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def postgres(folder: Path) -> Iterator[dict[str, str]]:
    """PostgreSQL with both databases; the environment of the commands after it."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CONTROL": str(folder / "control"),
        "POSTGRES_PORT": str(free_port()),
        "AS": "runuser -u postgres --" if IS_ROOT else "",
    }
    command(SECRETS, environment)
    if IS_ROOT:
        command('chown -R postgres "$CONTROL"', environment)
    command(POSTGRES, environment)
    yield environment
    command(f'$AS {BINARIES[-1]}/pg_ctl -D "$CONTROL/postgres" stop', environment)


@pytest.fixture(scope="module")
def plane(folder: Path, postgres: dict[str, str]) -> Iterator[Plane]:
    ports = {"PREFECT_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
    environment = postgres | ports
    addresses = [f"http://127.0.0.1:{ports['PREFECT_PORT']}/api", f"http://127.0.0.1:{ports['MLFLOW_PORT']}"]
    with ExitStack() as stack:
        for name, script, address in zip(("prefect", "mlflow"), (PREFECT, MLFLOW), addresses, strict=True):
            stack.enter_context(process(["bash", "-euc", script], environment, folder / f"{name}.log"))
            wait_until(lambda: answers(f"{address}/health"), folder / f"{name}.log")  # noqa: B023, called at once
        yield Plane(folder, environment, *addresses)


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[dict[str, str]]:
    """An S3 server with a bucket, as environment variables."""
    pytest.importorskip("moto", reason="moto, the S3 server of this test, is not installed")
    fsspec = pytest.importorskip("fsspec")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "of-nothing", "AWS_DEFAULT_REGION": "us-east-1"}
    arguments = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with process(arguments, dict(os.environ), folder / "s3.log"):
        wait_until(lambda: answers(f"{address}/moto-api/"), folder / "s3.log")
        options = {"key": "tester", "secret": "of-nothing", "endpoint_url": address}
        fsspec.filesystem("s3", **options).mkdir("ddlm")
        yield {**keys, "AWS_ENDPOINT_URL": address, "DDLM_STORE": "s3://ddlm/store"}


def deployment(folder: Path) -> Path:
    """The project's deployment, but that its runs need not wait for each other."""
    document = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    (found,) = (entry for entry in document["deployments"] if entry["name"] == "full-pipeline")
    del found["concurrency_limit"]
    path = folder / "prefect.yaml"
    path.write_text(yaml.safe_dump({**document, "deployments": [found]}))
    return path


def ended(client: SyncPrefectClient, runs: Sequence[UUID]) -> bool:
    states = [client.read_flow_run(run).state for run in runs]
    return all(state and state.is_final() for state in states)


@pytest.mark.services
@pytest.mark.timeout(600)
@needs_postgres
def test_two_workers_that_share_no_disk_build_each_stage_once(plane: Plane, store: dict[str, str]) -> None:
    addresses = {"PREFECT_API_URL": plane.prefect, "MLFLOW_TRACKING_URI": plane.mlflow}
    environment = plane.environment | store | addresses | {"PWD": str(ROOT)}
    path = deployment(plane.folder)
    command(
        f"prefect work-pool create cpu --type process && prefect --no-prompt deploy --all --prefect-file {path}",
        environment,
    )
    work = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cpu", "--limit", "1", "--name"]
    with ExitStack() as stack, temporary_settings({PREFECT_API_URL: plane.prefect}):
        for name in ("a", "b"):
            own = {"DDLM_HOME": str(plane.folder / name), "PREFECT_HOME": str(plane.folder / f"prefect-{name}")}
            stack.enter_context(process([*work, name], environment | own, plane.folder / f"{name}.log"))
        client = stack.enter_context(get_client(sync_client=True))
        found = client.read_deployment_by_name("full-pipeline/full-pipeline")
        asked = {"experiment": "configs/tiny.toml"}
        runs = [client.create_flow_run_from_deployment(found.id, parameters=asked).id for _ in range(2)]
        wait_until(lambda: ended(client, runs), plane.folder / "a.log", 400)
        said = (plane.folder / "a.log").read_text() + (plane.folder / "b.log").read_text()
        states = [client.read_flow_run(run).state_name for run in runs]
        assert states == ["Completed", "Completed"], said[-5000:]
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=runs)))
    became: dict[str, list[str | None]] = {}
    for task in tasks:
        became.setdefault(task.name.rpartition("-")[0], []).append(task.state_name)
    assert {name: sorted(map(str, became[name])) for name in STAGES} == {
        name: ["Cached", "Completed"] for name in STAGES
    }
    assert (plane.folder / "a" / "tiny").exists()
    assert (plane.folder / "b" / "tiny").exists()
    require_metrics_once(MlflowClient(tracking_uri=plane.mlflow))


def require_metrics_once(client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    stages = [name for run in runs for name in run.data.metrics if name.startswith("stage/")]
    assert sorted(stages) == sorted(f"stage/{name}_s" for name in STAGES)
    (train,) = (run for run in runs if "stage/train_s" in run.data.metrics)
    steps = [metric.step for metric in client.get_metric_history(train.info.run_id, "train/nll_nats")]
    assert steps
    assert len(steps) == len(set(steps))
    (version,) = client.search_model_versions("name = 'ddlm-tiny'")
    assert list_artifacts(artifact_uri=version.source, tracking_uri=client.tracking_uri)
