"""What reaches a box, without a box."""

import errno
import importlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from configparser import ConfigParser
from contextlib import suppress
from pathlib import Path

import pytest
from fabric import Connection
from invoke import Context, Exit

INFRA = Path(__file__).parents[2] / "infra"
NASTY = [
    "plain",
    "two words",
    'it\'s "quoted"',
    "$(touch hacked) `touch hacked` $HOME",
    "a; touch hacked & | > < * ? [x] ~ ! #",
    "back\\slash \\n",
    "new\nline",
    "--help",
    "-n",
    "",
    "ünï ▦",
]


@pytest.fixture(autouse=True)
def _as_fab_finds_them(monkeypatch):
    monkeypatch.syspath_prepend(INFRA)
    yield
    for path in INFRA.glob("*.py"):
        sys.modules.pop(path.stem, None)


def load(name):
    return importlib.import_module(name)


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh", "fish", "tcsh"])
def test_words_arrive_unharmed_whatever_they_contain_and_whatever_the_login_shell(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    line = load("remote").command('for word; do printf "%s\\0" "$word"; done', *NASTY)
    done = subprocess.run([shell, "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == NASTY
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("tar: x: No space left on device\ntar: exiting\n", "the disk is full there"),
        ("ERROR: Could not install: [Errno 122] Disk quota exceeded\nmore\n", "the disk is full there"),
        ("noise\nthe last word\n\n", "the last word"),
        ("", "without a word"),
    ],
)
def test_the_line_that_says_why_is_found(stderr, said):
    assert said in load("remote").last_word(stderr)


def test_a_worker_asks_its_pool_and_queues():
    words = load("jobs").worker_command("gpu", ("training", "night.ly"))
    assert " ".join(words) == (
        "python -m prefect worker start --pool gpu --work-queue training --work-queue night.ly --limit 1"
    )


@pytest.mark.parametrize("name", ["two words", "$(x)", "100%", "a;b", "", "a\n"])
def test_a_name_that_a_unit_could_not_hold_is_refused(name):
    with pytest.raises(Exit, match="wanted letters"):
        load("jobs").worker_command("cpu", (name,))


def test_the_unit_starts_the_worker_by_the_script_that_is_put_there():
    unit = ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read_string(load("jobs").unit(["python", "-m", "prefect"]))
    assert unit["Service"]["ExecStart"] == "/bin/sh %h/ddlm/job.sh worker systemd python -m prefect"
    assert unit["Service"]["Restart"] == "on-failure"


@pytest.mark.parametrize(("text", "ports"), [("4200", (4200, 4200)), ("14200:4200", (14200, 4200))])
def test_a_port_is_the_same_on_both_sides_or_a_pair(text, ports):
    assert load("forwarding").parse(text) == ports


def test_a_port_that_is_no_number_is_refused():
    with pytest.raises(Exit, match="BOX:HERE"):
        load("forwarding").parse("http")


@pytest.fixture
def hosts(monkeypatch, tmp_path):
    """Writes a hosts.toml."""
    monkeypatch.setattr(load("boxes"), "HOSTS", tmp_path / "hosts.toml")
    return (tmp_path / "hosts.toml").write_text


def test_a_role_stands_for_its_boxes(hosts):
    hosts((INFRA / "hosts.example.toml").read_text())
    boxes = load("boxes").chosen(Context(), "gpu")
    assert [load("boxes").name(box) for box in boxes] == ["me@gpu-box", "me@other-gpu-box:2222"]


@pytest.mark.parametrize(
    ("text", "role", "said"),
    [
        ("[gpu]\nhosts = ['a']", "gpus", "--role gpus: no boxes in infra/hosts.toml; it has gpu"),
        ("", "gpu", "it has no roles"),
        ("[gpu]\nhosts = []", "gpu", "no boxes"),
        ("gpu = 1", "gpu", "no boxes"),
        ("[gpu", "gpu", "not valid TOML"),
        (None, "gpu", r"copy infra/hosts\.example\.toml"),
        ("[gpu]\nhosts = ['a']", "", "give -H user@host, or --role NAME of infra/hosts.toml after the task"),
    ],
)
def test_a_role_that_is_not_there_gets_one_line(hosts, text, role, said):
    if text is not None:
        hosts(text)
    with pytest.raises(Exit, match=said) as caught:
        load("boxes").chosen(Context(), role)
    assert caught.value.code == 2


def test_boxes_are_not_given_twice(hosts):
    hosts("[gpu]\nhosts = ['a']")
    with pytest.raises(Exit, match="one of the two"):
        load("boxes").chosen(Connection("b"), "gpu")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (socket.gaierror(-2, "Name or service not known"), "b: no machine has that name"),
        (TimeoutError("timed out"), r"b: no connection \(timed out\)"),
        (EOFError(), r"b: no connection \(EOFError\)"),
        (OSError(errno.ENOSPC, "No space left on device"), "here, on this machine: .*No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "outputs"), "here, on this machine: .*outputs"),
    ],
)
def test_what_goes_wrong_on_the_way_is_said_in_a_line(error, said):
    with pytest.raises(Exit, match=said), load("boxes").explained(Connection("b")):
        raise error


@pytest.mark.parametrize("script", ["job.sh", "install.sh", "doctor.sh"])
def test_a_script_for_the_box_is_plain_sh(script):
    subprocess.run(["sh", "-n", INFRA / script], check=True)


@pytest.fixture
def job(tmp_path):
    """Starts a job as a box does, in a session of its own and at a home with a tree and an .env."""
    (tmp_path / "ddlm" / "trees" / "abc").mkdir(parents=True)
    (tmp_path / "ddlm" / "current").symlink_to("trees/abc")
    (tmp_path / "ddlm" / ".env").write_text("TOKEN='a b'\n")
    started = []

    def start(*words):
        environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        started.append(subprocess.Popen(["sh", INFRA / "job.sh", *words], env=environment, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_job_runs_in_its_tree_with_the_env_file_and_says_how_it_ended(job, tmp_path):
    assert job("run", "once", "sh", "-c", "env; exit 3").wait() == 3
    folder = tmp_path / "ddlm"
    found = dict(line.split("=", 1) for line in (folder / "run.log").read_text().splitlines())
    assert found["PWD"] == found["PYTHONPATH"] == str(folder / "trees" / "abc")
    assert found["DDLM_HOME"] == str(folder / "outputs")
    assert found["TOKEN"] == "a b"
    assert found["TMPDIR"] == str(folder / "tmp")
    assert stat.S_IMODE((folder / "tmp").stat().st_mode) == 0o700
    assert found["DO_NOT_TRACK"] == "true"
    assert (folder / "run.rc").read_text() == "3\n"
    assert stat.S_IMODE((folder / "run.log").stat().st_mode) == 0o600


def test_a_job_that_is_killed_is_started_again_until_it_is_stopped(job, tmp_path):
    process = job("worker", "again", "sh", "-c", "kill -9 $$")
    log = tmp_path / "ddlm" / "worker.log"
    deadline = time.monotonic() + 30
    while not (log.exists() and "starting again" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert job("worker", "again", "true").wait() == 75
    assert (tmp_path / "ddlm" / "worker.crashes").read_text() == "137\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(5) == 137
