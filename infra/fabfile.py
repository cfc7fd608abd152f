"""How a box over SSH comes to run ddlm: `fab -r infra -H user@box bootstrap`, then `run`, or `tunnel` and a worker.

The box needs Linux, sshd and Python 3.11 or newer with venv; no make, git or rsync. Everything there is in ~/ddlm:
trees/COMMIT and `current`, a link to one of them; .venv, .env, outputs/; worker.log and run.log.
"""

import os
import time
import tomllib
from functools import partial
from pathlib import Path

import jetson
import jobs
import tree
from boxes import BoxTask, name
from fabric import Connection, task
from forwarding import forwarded
from invoke import Exit
from remote import ask, do, send_secrets, show

HERE = Path(__file__).parent
OUTPUTS = Path(os.environ.get("DDLM_HOME") or HERE.parent / "outputs")

DDLM = """cd -P "$HOME/ddlm/current" && export "PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}" || exit
exec "$HOME/ddlm/.venv/bin/python" -m ddlm "$@\""""
RUNS = """cd "$HOME/ddlm/outputs" 2>/dev/null || exit 0
find_score='s/^ *"bits_per_byte": \\([0-9.]*\\).*/\\1 bits per byte/p'
for folder in */; do
    [ -e "$folder/model/experiment.toml" ] || continue
    score=$(sed -n "$find_score" "$folder/scores.json" 2>/dev/null | head -1)
    printf '%s  %s  %s\\n' "$(date -r "$folder" '+%F %H:%M')" "${folder%/}" "$score"
done | sort -r"""

on_boxes = partial(task, klass=BoxTask)
COMMIT = {"commit": "what to put there; a commit, branch or tag of this repository"}
PYTHON = {"python": "the box's Python to make the virtual environment with"}
JOB = {"job": "worker or run"}


@on_boxes(help=COMMIT)
def push(box: Connection, commit: str = "HEAD") -> None:
    """Put the committed tree there and make it the current one. What is not committed stays here."""
    tree.push(box, commit)


@on_boxes(help=COMMIT | PYTHON)
def bootstrap(box: Connection, commit: str = "HEAD", python: str = "") -> None:
    """Push, then install. A second time it finds everything there. Outputs, .env and .venv stay."""
    tree.push(box, commit)
    tree.install(box, python)
    print(f"{name(box)}: ddlm {do(box, DDLM, '--version')}")
    gpu(box)


@on_boxes(
    iterable=["set_"], help=COMMIT | PYTHON | {"experiment": "a configuration of that commit", "set": "key=value"}
)
def run(
    box: Connection,
    experiment: str = "configs/quick.toml",
    set_: list[str] | None = None,
    commit: str = "HEAD",
    python: str = "",
) -> None:
    """Push, install, run an experiment, fetch its results. The run goes on when the connection ends: see attach."""
    tree.push(box, commit)
    tree.install(box, python)
    words = [experiment, *(word for override in set_ or () for word in ("--set", override))]
    experiment_name = tomllib.loads(do(box, DDLM, "config", *words))["name"]
    jobs.start(box, "run", "once", "python", "-m", "ddlm", "run", *words)
    code = jobs.follow(box, "run")
    if code:
        raise Exit(f"{name(box)}: the run ended with exit code {code}; give the same again and it goes on", code)
    tree.fetch(box, f"outputs/{experiment_name}", OUTPUTS)


@on_boxes(help={"path": "a file or folder below ~/ddlm, such as outputs/quick"})
def fetch(box: Connection, path: str) -> None:
    """Bring a file or folder of the box into outputs/fetched/HOST/TIME/."""
    tree.fetch(box, path, OUTPUTS)


@on_boxes
def list_runs(box: Connection) -> None:
    """The experiments that have results there, the last one first."""
    print(do(box, RUNS) or f"{name(box)}: no runs yet")


@on_boxes
def gpu(box: Connection) -> None:
    """What nvidia-smi says."""
    print(ask(box, "nvidia-smi") or f"{name(box)}: no NVIDIA GPU (nvidia-smi is missing or fails): CPU only")


@on_boxes(help=JOB)
def attach(box: Connection, job: str = "run") -> None:
    """Follow a job's log until it ends or Ctrl-C; the job goes on."""
    code = jobs.follow(box, job)
    if code:
        raise Exit(f"{name(box)}: the {job} ended with exit code {code}", code)


@on_boxes(help={"file": "of lines NAME=value, as .env.example"})
def sync_env(box: Connection, file: str) -> None:
    """Make a file the box's .env, readable by its owner alone. It appears on no command line and in no log."""
    now, gone = send_secrets(box, Path(file), do(box, 'mkdir -p "$HOME/ddlm" && printf %s "$HOME/ddlm"'))
    print(
        f"{name(box)}: .env is there and sets {', '.join(now) or 'nothing'}; a worker reads it when it is started again"
    )
    if gone:
        print(f"{name(box)}: not set any more: {', '.join(gone)}")


@on_boxes(
    iterable=["port"], help={"port": "here and on the box, or BOX:HERE; by default 4200 (Prefect) and 5000 (MLflow)"}
)
def tunnel(box: Connection, port: list[str] | None = None) -> None:
    """Let the box reach this machine's Prefect and MLflow servers at its own loopback address, until Ctrl-C."""
    with forwarded(box, port or ("4200", "5000")) as lines:
        print(*(f"{name(box)}: {line}" for line in lines), sep="\n", flush=True)
        while box.transport.is_active():
            time.sleep(1)
    raise Exit(f"{name(box)}: the connection is lost, and the tunnel with it; start it again")


@on_boxes(iterable=["queue"], help={"pool": "the work pool", "queue": "a queue of it; may be given again"})
def worker_start(box: Connection, pool: str = "cpu", queue: list[str] | None = None) -> None:
    """Start a Prefect worker that survives logging out. ~/ddlm/.env says where its server is."""
    jobs.start_worker(box, pool, tuple(queue or jobs.QUEUES))


@on_boxes
def worker_stop(box: Connection) -> None:
    """Stop the worker and the run that it has; the run is reported and can be retried."""
    jobs.stop_worker(box)


@on_boxes
def worker_status(box: Connection) -> None:
    """Whether a worker runs there. Exit code 1 when none does."""
    print(f"{name(box)}: {jobs.status(box, 'worker')}")


@on_boxes(help={"lines": "how many of the last"})
def worker_logs(box: Connection, lines: int = 100) -> None:
    """The worker's last words."""
    show(box, 'tail -n "$1" "$HOME/ddlm/worker.log"', str(lines))


@on_boxes
def doctor(box: Connection) -> None:
    """A line for each thing that is missing or wrong there. Exit code 1 when there is one."""
    if show(box, (HERE / "doctor.sh").read_text()):
        raise Exit(code=1)
    print(f"{name(box)}: nothing is missing")


@on_boxes(help={"bundle": "a folder that ddlm export made", "python": "the Jetson's, to make the environment with"})
def deploy_bundle(box: Connection, bundle: str = "outputs/quick/bundle", python: str = "") -> None:
    """Put a bundle on a Jetson, with the packages that it asks for, and write with it once."""
    jetson.deploy(box, Path(bundle), python)


@on_boxes
def jetson_doctor(box: Connection) -> None:
    """JetPack, power mode, clocks, memory, TensorRT, disk; then a line for each thing that is wrong, exit code 1."""
    facts = jetson.facts_of(box)
    print(*(f"{key}: {value}" for key, value in facts.items()), sep="\n")
    wrong = list(jetson.complaints(facts))
    if wrong:
        print(*wrong, sep="\n")
        raise Exit(code=1)
    print(f"{name(box)}: nothing is missing")


@on_boxes(
    iterable=["option"],
    help={"option": "one for bench.sh, such as --option=--backend=trt", "experiment": "of MLflow"},
)
def jetson_bench(box: Connection, option: list[str] | None = None, experiment: str = "jetson") -> None:
    """Measure the bundle that is on a Jetson; the record comes to outputs/fetched/HOST and its figures into MLflow."""
    jetson.bench(box, list(option or ()), experiment)
