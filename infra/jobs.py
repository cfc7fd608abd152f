"""Jobs that outlive a connection: the worker and a run, each kept by job.sh on the box."""

import io
import re
from pathlib import Path

from boxes import name
from fabric import Connection
from invoke import Exit
from remote import ask, do, feed, show

HERE = Path(__file__).parent
UNIT = "ddlm-worker.service"
QUEUES = ("training", "scheduled")

SAVE = 'mkdir -p "$(dirname "$HOME/$1")" && cat >"$HOME/$1.new" && mv -f "$HOME/$1.new" "$HOME/$1"'
IS_FREE = 'mkdir -p "$HOME/ddlm" && cd "$HOME/ddlm" && flock -n "$1.lock" true'
START = """cd "$HOME/ddlm" && rm -f "$1.pid" "$1.crashes" || exit
[ "$2" = again ] || rm -f "$1.log"
exec setsid -f sh job.sh "$@" </dev/null >/dev/null 2>&1"""
AWAIT = """cd "$HOME/ddlm" || exit
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -s "$1.pid" ] && exit; sleep 0.5; done
echo "$1 did not start" >&2; exit 1"""
STATUS = """cd "$HOME/ddlm" && pid=$(cat "$1.pid") || exit
commit=$(basename "$(readlink "/proc/$pid/cwd")" | cut -c1-12)
echo "$1 is running: process $pid since $(date -r "$1.pid" '+%F %T'), commit $commit"
"""
SETTLE = """cd "$HOME/ddlm" && before=$(wc -l <worker.log) || exit
for _ in $(seq 40); do
    [ ! -s worker.crashes ] || exit 0
    ! tail -n "+$((before + 1))" worker.log | grep -q 'Worker .* started' || exit 0
    sleep 0.5
done"""
CRASHES = """cd "$HOME/ddlm" && [ "$(find "$1.crashes" -mmin -2 2>/dev/null)" ] || exit
echo "$(wc -l <"$1.crashes") times, the last with exit code $(tail -n 1 "$1.crashes")\""""
ENV_IS_WHOLE = '[ ! -e "$HOME/ddlm/.env" ] || sh -n "$HOME/ddlm/.env"'
FOLLOW = 'cd "$HOME/ddlm" && exec tail -n +1 -f --pid="$(cat "$1.pid")" "$1.log"'
STARTED = '[ -s "$HOME/ddlm/$1.pid" ]'
ENDED = 'cat "$HOME/ddlm/$1.rc"'
STOP = """cd "$HOME/ddlm" && pid=$(cat "$1.pid") || exit
left() { grep -lszx "DDLM_JOB=$1" /proc/[0-9]*/environ | cut -d/ -f3; }
# Flow runs first, each in a session of its own: a training saves, and the worker, still there, reports a crashed run.
runs=
for process in $(left "$1-$pid"); do
    [ "$(cut -d' ' -f5 "/proc/$process/stat")" = "$pid" ] || runs="$runs $process"
done
if [ "$runs" ]; then
    kill -TERM $runs
    for _ in $(seq 60); do kill -0 $runs 2>/dev/null || break; sleep 1; done
    sleep 3
fi
kill -INT "-$pid"
for _ in $(seq 60); do kill -0 "-$pid" 2>/dev/null || break; sleep 1; done
kill -KILL "-$pid" $(left "$1-$pid") 2>/dev/null
true"""
SYSTEMD = "systemctl --user show-environment"
ENABLE = """rm -f "$HOME/ddlm/worker.pid" "$HOME/ddlm/worker.crashes" && systemctl --user daemon-reload &&
systemctl --user enable --now "$1" && loginctl enable-linger"""
DISABLE = 'systemctl --user disable --now "$1"'
KILLED = 137
"""What a job that left no exit code counts as."""
HAS_SERVER = "grep -Eqs '^(export )?PREFECT_API_URL=.' \"$HOME/ddlm/.env\""


def start_worker(box: Connection, pool: str, queues: tuple[str, ...]) -> None:
    """Under systemd where the box's user has one, else in a session of its own that starts it again when it ends."""
    words = worker_command(pool, queues)
    require_env(box)
    if ask(box, HAS_SERVER) is None:
        raise Exit(f"{name(box)}: ~/ddlm/.env sets no PREFECT_API_URL, the server to ask for work; sync-env FILE", 2)
    if ask(box, SYSTEMD) is None:
        start(box, "worker", "again", *words)
    else:
        require_free(box, "worker")
        send_job(box)
        save(box, f".config/systemd/user/{UNIT}", unit(words))
        do(box, ENABLE, UNIT)
        do(box, AWAIT, "worker")
    do(box, SETTLE)
    print(f"{name(box)}: {status(box, 'worker')}")


def worker_command(pool: str, queues: tuple[str, ...]) -> list[str]:
    """Raises: Exit for a name that a systemd unit could not hold as it is."""
    for word in (pool, *queues):
        if not re.fullmatch(r"[\w.-]+", word, re.ASCII):
            raise Exit(f"pool or queue {word!r}: wanted letters, digits, dots, dashes and underscores", 2)
    asked = [word for queue in queues for word in ("--work-queue", queue)]
    return ["python", "-m", "prefect", "worker", "start", "--pool", pool, *asked, "--limit", "1"]


def unit(words: list[str]) -> str:
    """The worker's unit; systemd, not job.sh, starts it again."""
    return (HERE / UNIT).read_text(encoding="utf-8").replace("@COMMAND@", " ".join(words))


def stop_worker(box: Connection) -> None:
    require_job(box, "worker")
    if ask(box, f'[ -e "$HOME/.config/systemd/user/{UNIT}" ] && {DISABLE}', UNIT) is None:
        do(box, STOP, "worker")
    print(f"{name(box)}: worker stopped")


def start(box: Connection, job: str, mode: str, *words: str) -> None:
    """Start a job without systemd. mode: `again` when it ends badly, or `once`."""
    require_env(box)
    require_free(box, job)
    send_job(box)
    do(box, START, job, mode, *words)
    do(box, AWAIT, job)


def require_free(box: Connection, job: str) -> None:
    if ask(box, IS_FREE, job) is None:
        raise Exit(f"{name(box)}: a {job} is going on there; attach --job {job}", 1)


def require_env(box: Connection) -> None:
    if ask(box, ENV_IS_WHOLE) is None:
        raise Exit(f"{name(box)}: sh can't read ~/ddlm/.env; mend it there, or put another one with sync-env FILE", 2)


def require_job(box: Connection, job: str) -> None:
    if ask(box, IS_FREE, job) is not None:
        code = ask(box, ENDED, job)
        raise Exit(f"{name(box)}: no {job} is running" + (f"; the last ended with exit code {code}" if code else ""), 1)


def send_job(box: Connection) -> None:
    save(box, "ddlm/job.sh", (HERE / "job.sh").read_text(encoding="utf-8"))


def save(box: Connection, path: str, text: str) -> None:
    """Write a file below the box's home, whole or not at all."""
    feed(box, io.BytesIO(text.encode()), SAVE, path)


def status(box: Connection, job: str) -> str:
    """Raises: Exit when the job does not run, or crashes whenever it is started again."""
    require_env(box)
    crashes = ask(box, CRASHES, job)
    if crashes:
        raise Exit(f"{name(box)}: the {job} has crashed {crashes}, and is started again; see {job}-logs", 1)
    require_job(box, job)
    return do(box, STATUS, job)


def follow(box: Connection, job: str) -> int:
    """Show a job's log from its start until the job ends; its exit code."""
    if ask(box, STARTED, job) is None:
        raise Exit(f"{name(box)}: no {job} was ever started there", 1)
    show(box, FOLLOW, job)
    return int(ask(box, ENDED, job) or KILLED)
