import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from ddlm.config import UserError
from flows.server import OWNER, choose_port, embedded, identity, is_alive, stop_leftovers

ROOT = Path(__file__).parents[2]
HOLD_A_SERVER = """
import time
from flows.server import embedded
with embedded() as url:
    print(url, flush=True)
    time.sleep(300)
"""


def sleeper(**environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], env=os.environ | environment)


def named(process: subprocess.Popen[bytes]) -> str:
    return identity(psutil.Process(process.pid))


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def gone() -> str:
    """The identity of a process that has ended."""
    process = sleeper()
    name = named(process)
    end(process)
    return name


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


def test_a_server_whose_run_is_gone_is_stopped_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    left, ours = sleeper(**{OWNER: gone()}), sleeper(**{OWNER: identity(psutil.Process())})
    with caplog.at_level(logging.WARNING):
        stop_leftovers()
    assert not psutil.pid_exists(left.pid)
    left.wait()
    assert f"a killed run left behind (process {left.pid})" in caplog.text
    assert ours.poll() is None
    end(ours)


def test_a_process_that_took_over_the_number_of_a_dead_run_is_not_that_run() -> None:
    myself = psutil.Process()
    assert is_alive(identity(myself))
    assert not is_alive(f"{myself.pid}:{myself.create_time() - 3600}")


def test_a_killed_run_that_nobody_waited_for_is_gone() -> None:
    process = sleeper()
    name = named(process)
    process.kill()
    deadline = time.monotonic() + 10
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
    assert not is_alive(name)
    process.wait()


def test_a_port_in_use_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("PREFECT_SERVER_API_PORT", str(port))
        with pytest.raises(UserError, match=f"PREFECT_SERVER_API_PORT {port}: can't be used .*give a free port"):
            choose_port()
    assert choose_port() == port


def test_a_port_that_is_no_number_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", "http")
    with pytest.raises(UserError, match="PREFECT_SERVER_API_PORT http: wanted a number"):
        choose_port()


def test_a_server_of_the_users_is_used_and_left_running(server: str) -> None:
    with temporary_settings({PREFECT_API_URL: server}), embedded() as url:
        assert url == server
    assert answers(server)


def test_a_server_of_the_users_that_does_not_answer_is_one_line() -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(UserError, match=r"PREFECT_API_URL http://127\.0\.0\.1:9/api: no Prefect server answers"),
        embedded(),
    ):
        pass


@pytest.fixture
def holder(server: str, monkeypatch: pytest.MonkeyPatch, prefect_home: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that only holds its server. It shares a database with the session's, so that it need not migrate one."""
    monkeypatch.setenv("PREFECT_HOME", str(prefect_home / "prefect"))
    command = [sys.executable, "-c", HOLD_A_SERVER]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_ended_run_takes_its_server_along(holder: subprocess.Popen[str], ending: signal.Signals) -> None:
    assert holder.stdout
    url = holder.stdout.readline().strip()
    assert answers(url)
    holder.send_signal(ending)
    holder.wait(60)
    assert not answers(url)


@pytest.mark.slow
def test_the_server_of_a_run_killed_with_kill_9_is_found(holder: subprocess.Popen[str]) -> None:
    assert holder.stdout
    url = holder.stdout.readline().strip()
    holder.kill()
    holder.wait()
    assert answers(url)
    stop_leftovers()
    assert not answers(url)
