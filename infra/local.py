"""The whole control plane on this machine: a Prefect server, an MLflow server and a worker, on loopback alone.

    python infra/local.py start      # what is running already stays; prints the addresses
    python infra/local.py status
    python infra/local.py stop       # stops what `start` started, by process id, and nothing else

State lies under DDLM_HOME (outputs/): the servers' databases, and in `control/` a log and a record of each process.
Ports: PREFECT_PORT (4200) and MLFLOW_PORT (5000).
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from health import answers, worker_is_heard

from ddlm.config import UserError
from ddlm.loopback import require_no_unusable_proxy, spare_loopback
from ddlm.tracking.mlflow_client import follow_home

STARTUP_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
"""A training saves before it ends."""
CLOCK_TOLERANCE_S = 60.0
"""Start times are derived from the wall clock, which may be set while a process lasts."""
BIN = Path(sys.executable).parent
HOME = Path(os.environ.get("DDLM_HOME", "outputs")).absolute()
DEPLOYED = HOME / "control" / "deployed"
PREFECT = f"http://127.0.0.1:{os.environ.get('PREFECT_PORT', '4200')}"
MLFLOW = f"http://127.0.0.1:{os.environ.get('MLFLOW_PORT', '5000')}"
WORKER = socket.gethostname()
QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes that nobody here asks for anything
}

WATCHED = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # infra/automations.py waits for three of them
    "PREFECT_LOGGING_EXTRA_LOGGERS": "ddlm",
    # In memory, by default: a server that is started again then refuses to renew a running flow's place among its
    # deployment's concurrent runs, and Prefect ends the flow for that.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # What the automations wait for outlives a restart, and a weekend without power.
    "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "flows.ordering",
    "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER": "P7D",
}


@dataclass(frozen=True)
class Service:
    """A process of the control plane. health: the page of a server that answers once it is up; a worker has none, and
    is up once the Prefect server has heard of it."""

    name: str
    command: tuple[str, ...]
    health: str | None = None

    @property
    def record(self) -> Path:
        return HOME / "control" / f"{self.name}.json"

    @property
    def log(self) -> Path:
        return HOME / "control" / f"{self.name}.log"

    def process(self) -> psutil.Process | None:
        """The process that was started, if it still runs; another one that got its number is not it."""
        try:
            record = json.loads(self.record.read_text())
            process = psutil.Process(record["pid"])
            is_same = abs(process.create_time() - record["started"]) < CLOCK_TOLERANCE_S
            return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
        except (OSError, ValueError, psutil.NoSuchProcess):
            return None

    def family(self) -> list[psutil.Process]:
        """The process and what it started, or what is left of them: a session keeps its number to its last member.

        Of a worker that was killed, not its runs, which have sessions of their own and go on.
        """
        process = self.process()
        try:
            session = json.loads(self.record.read_text())["pid"]
        except (OSError, ValueError):
            return []
        if process is None and psutil.pid_exists(session):  # the number is somebody else's by now
            return []
        members = [each for each in psutil.process_iter() if is_member(each, session)]
        return [*{*members, *(process.children(recursive=True) if process else ())}]

    def start(self) -> None:
        """Raises: SystemExit with one line when it does not come up."""
        if self.process():
            return
        self.record.parent.mkdir(parents=True, exist_ok=True)
        if self.health:  # half of a killed server may still hold its port; a killed worker's run may go on
            end(self.family())
            self.require_free_port()
        with self.log.open("ab") as log:
            process = psutil.Popen(
                self.command,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.record.write_text(json.dumps({"pid": process.pid, "started": process.create_time()}))
        wait(lambda: self.is_heard(process), process, self)

    def is_heard(self, process: psutil.Process) -> bool:
        return answers(self.health) if self.health else worker_is_heard(PREFECT, WORKER, process.create_time())

    def trouble(self) -> str:
        """What is wrong with it; empty where nothing is."""
        process = self.process()
        if process is None:
            left = bool(self.health and answers(self.health))
            return "not running" + (", though what it left behind answers; make server" if left else "")
        if process.status() == psutil.STATUS_STOPPED:
            return f"process {process.pid} is suspended; kill -CONT {process.pid}"
        return "" if self.is_heard(process) else f"process {process.pid} does not answer; make stop server"

    def require_free_port(self) -> None:
        port = int(urlsplit(str(self.health)).netloc.rpartition(":")[2])
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just been given up is free
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                variable = f"{self.name.upper()}_PORT"
                sys.exit(f"{self.name}: port {port} is taken ({error.strerror}); stop what is there, or set {variable}")

    def stop(self) -> None:
        """SIGTERM to the process, then to what is left of those that it started. A worker's runs come first: they
        save and report, while the worker would kill them at once."""
        process, family = self.process(), self.family()
        if process:
            if self.health is None:
                end(process.children())
            process.terminate()
            psutil.wait_procs([process], STOP_TIMEOUT_S)
        end(family)
        self.record.unlink(missing_ok=True)


def is_member(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session
    except OSError:
        return False


def end(processes: list[psutil.Process]) -> None:
    """SIGTERM, and where that is not heard SIGKILL."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, STOP_TIMEOUT_S)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def services() -> list[Service]:
    """In the order in which they start."""
    port = {name: url.rpartition(":")[2] for name, url in (("prefect", PREFECT), ("mlflow", MLFLOW))}
    database, artifacts = f"sqlite:///{HOME / 'mlflow.db'}", (HOME / "mlartifacts").as_uri()
    return [
        Service(
            "prefect",
            (str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", port["prefect"]),
            f"{PREFECT}/api/health",
        ),
        Service(
            "mlflow",
            (
                str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", port["mlflow"], "--workers", "1",
                "--backend-store-uri", database, "--artifacts-destination", artifacts,
            ),
            f"{MLFLOW}/health",
        ),
        Service(
            "worker",
            (
                str(BIN / "prefect"), "worker", "start", "--pool", "cpu", "--type", "process", "--limit", "1",
                "--work-queue", "training", "--work-queue", "scheduled", "--name", WORKER,
            ),
        ),
    ]  # fmt: skip


def environment() -> dict[str, str]:
    own = {
        "DDLM_HOME": str(HOME),
        "PREFECT_HOME": str(HOME / "prefect"),
        "PREFECT_LOCAL_STORAGE_PATH": str(HOME / "prefect" / "results"),
        "PREFECT_API_URL": f"{PREFECT}/api",
        "MLFLOW_TRACKING_URI": MLFLOW,
        "PWD": str(Path(__file__).resolve().parents[1]),  # where the worker's runs find the project
    }
    return {**os.environ, **QUIET, **WATCHED, **own}


def wait(is_up: Callable[[], bool], process: psutil.Popen, service: Service) -> None:
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if is_up():
            return
        time.sleep(0.2)
    service.stop()
    sys.exit(f"{service.name}: did not come up (exit code {process.poll()}); its last words are in {service.log}")


def deploy() -> None:
    """Pools, queues, deployments and automations, with what is installed here; once, until `stop`."""
    if not DEPLOYED.exists():
        short = os.path.relpath(BIN)  # a shell reads it, and the project's path may have quotes in it
        do("deploy", "make", "deploy", f"BIN={short}", "STAMP=")
        DEPLOYED.touch()


def schedule_crashed() -> None:
    """What crashed as everything did, which nobody was left to schedule again."""
    sys.stdout.write(do("second chances", sys.executable, str(Path(__file__).with_name("second_chances.py"))))


def do(what: str, *command: str) -> str:
    """What the command says. Raises: SystemExit with the end of it where it fails."""
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{what}: failed, and said:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def start() -> None:
    prefect, mlflow, worker = services()
    prefect.start()
    if (HOME / "mlflow.db").exists():
        follow_home(HOME / "mlflow.db")  # the server takes the paths that it finds there
    mlflow.start()
    deploy()
    if not worker.process():
        schedule_crashed()
    worker.start()
    status()


def status() -> None:
    addresses = {"prefect": PREFECT, "mlflow": MLFLOW, "worker": "pool cpu, queues training and scheduled"}
    for service in services():
        state = service.trouble() or addresses[service.name]
        sys.stdout.write(f"{service.name:8} {state:44} log: {service.log}\n")
    sys.stdout.write(f"\nexport PREFECT_API_URL={PREFECT}/api MLFLOW_TRACKING_URI={MLFLOW}\n")


def stop() -> None:
    for service in reversed(services()):
        service.stop()
    DEPLOYED.unlink(missing_ok=True)
    status()


ACTIONS = {"start": start, "status": status, "stop": stop}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in ACTIONS:
        sys.exit(f"wanted one of {', '.join(ACTIONS)}")
    spare_loopback()
    try:
        require_no_unusable_proxy()
    except UserError as error:
        sys.exit(str(error))
    ACTIONS[sys.argv[1]]()
