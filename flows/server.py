"""The Prefect server that a run brings along: started for it and stopped with it.

Importing this module does not import Prefect, which reads its environment as it is imported.
"""

import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psutil

from ddlm.config import UserError, home
from ddlm.loopback import require_no_unusable_proxy, spare_loopback

logger = logging.getLogger("ddlm.flows")  # shown as the library's lines are

OWNER = "DDLM_SERVER_OWNER"
"""In a server's environment: `pid:start time` of the run that it belongs to."""
STARTUP_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 10.0
DELIVERY_TIMEOUT_S = 10.0
CLOCK_TOLERANCE_S = 60.0
"""Start times are derived from the wall clock, which may be set while a run lasts."""


@contextmanager
def embedded() -> Iterator[str]:
    """The URL of a server for this process: the user's own (PREFECT_API_URL), else one that lives as long as the block.

    Raises: UserError when the user's server does not answer or an explicit port is taken.
    """
    spare_loopback()
    require_no_unusable_proxy()
    with environment():
        from prefect import settings

        url = settings.get_current_settings().api.url
        if url:
            require_answer(url)
            yield url
            return
        stop_leftovers()
        with server() as url:
            own = {
                settings.PREFECT_API_URL: url,
                settings.PREFECT_LOCAL_STORAGE_PATH: os.environ["PREFECT_LOCAL_STORAGE_PATH"],
                # Nobody watches a run of our own; the thread that beats holds up every run's end by up to a second.
                settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
                settings.PREFECT_UI_URL: "",  # it serves no pages, so Prefect should print no link to them
            }
            with settings.temporary_settings(own):
                try:
                    yield url
                finally:
                    deliver()


def deliver() -> None:
    """Send what waits in Prefect's queues: logs, and the states of tasks, which travel as events."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    EventsWorker.drain_all(timeout=DELIVERY_TIMEOUT_S)


@contextmanager
def environment() -> Iterator[None]:
    """What Prefect must find in the environment; what the user has set stays."""
    wanted = {
        "PREFECT_HOME": str(home() / "prefect"),
        "PREFECT_LOCAL_STORAGE_PATH": str(home() / "prefect" / "results"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # for a server of the user's: infra/automations.py waits for three
        "PREFECT_LOGGING_EXTRA_LOGGERS": "ddlm",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def require_answer(url: str) -> None:
    try:
        httpx.get(f"{url}/health", timeout=10)
    except httpx.TransportError as error:
        raise UserError(
            f"PREFECT_API_URL {url}: no Prefect server answers ({error}); start it with `prefect server start`, "
            "or unset PREFECT_API_URL and the run brings its own"
        ) from None


@contextmanager
def server() -> Iterator[str]:
    """A server of our own on a loopback port; stopped on the way out, on Ctrl-C and SIGTERM too."""
    folder = Path(os.environ["PREFECT_HOME"])
    with sigterm_as_ctrl_c(), (folder / "server.log").open("ab") as log:
        # Two servers that migrate one fresh database at once break it; so the second one waits until the first is up.
        with (folder / "server.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            port = choose_port()
            logger.info("starting a Prefect server for this run")
            process = launch(port, log.fileno())
            try:
                url = f"http://127.0.0.1:{port}/api"
                wait_until_up(process, url, Path(log.name))
            except BaseException:
                stop(process)
                raise
        try:
            yield url
        finally:
            stop(process)


def launch(port: int, log: int) -> psutil.Popen:
    """In a session of its own: Ctrl-C reaches the run alone, which still has states to report to the server."""
    return psutil.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"],
        env={**os.environ, OWNER: identity(psutil.Process()), "PREFECT_SERVER_LOGGING_LEVEL": "WARNING"},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def choose_port() -> int:
    """PREFECT_SERVER_API_PORT where it is set, else a free one. Raises: UserError when the former can't be used."""
    wanted = os.environ.get("PREFECT_SERVER_API_PORT", "0")
    if not wanted.isdecimal():
        raise UserError(f"PREFECT_SERVER_API_PORT {wanted}: wanted a number; give a free port, or unset it")
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(wanted)))
        except OSError as error:
            raise UserError(
                f"PREFECT_SERVER_API_PORT {wanted}: can't be used ({error.strerror}); give a free port, or unset it "
                "and the run finds one"
            ) from None
        return int(probe.getsockname()[1])


def wait_until_up(process: psutil.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    with httpx.Client(timeout=5) as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if client.get(f"{url}/health").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
    raise RuntimeError(f"the Prefect server did not come up (exit code {process.poll()}); its last words are in {log}")


def stop(process: psutil.Process) -> None:
    try:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()
    except psutil.NoSuchProcess:
        return


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM ends the block like Ctrl-C does: Python's default would leave the server behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop_leftovers() -> None:
    """Stop every server whose run is gone: kill -9 gives a run no chance to."""
    for process in psutil.process_iter():
        try:
            owner = process.environ().get(OWNER)
        except psutil.Error:  # another user's, or just ended
            continue
        if owner and not is_alive(owner):
            logger.warning("stopping the Prefect server that a killed run left behind (process %d)", process.pid)
            stop(process)


def identity(process: psutil.Process) -> str:
    return f"{process.pid}:{process.create_time():.2f}"


def is_alive(owner: str) -> bool:
    pid, _, started = owner.partition(":")
    try:
        process = psutil.Process(int(pid))
        is_same = abs(process.create_time() - float(started)) < CLOCK_TOLERANCE_S
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
