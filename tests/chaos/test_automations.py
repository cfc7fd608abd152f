"""infra/automations.py on a real server: what it does about crashes, and whom it tells."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.states import Pending

ROOT = Path(__file__).parents[2]
KEPT = """
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
resource = {"prefect.resource.id": "ddlm.model.tiny", "prefect.resource.name": "ddlm-tiny"}
emit_event("ddlm.champion.kept", resource, payload={"decision": "kept", "reason": "0.1 bits per byte worse"})
EventsWorker.drain_all(timeout=30)
"""
QUICK_TO_GIVE_UP = """
import sys; sys.path.insert(0, "infra")
from datetime import timedelta
import automations
from prefect.client.orchestration import get_client
trigger = automations.NEVER_BEGUN.trigger.model_copy(update={"within": timedelta(seconds=30)})
with get_client(sync_client=True) as client:
    automations.put(client, automations.NEVER_BEGUN.model_copy(update={"trigger": trigger}))
"""

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


class Listener(ThreadingHTTPServer):
    """Where alerts go. posted: what has come."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.posted: list[str] = []


class Answer(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        self.server.posted.append(self.rfile.read(int(self.headers["content-length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run_python(plane: Any, *arguments: str, **environment: str) -> str:
    url = f"http://127.0.0.1:{plane.prefect_port}/api"
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, "PREFECT_API_URL": url, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_that_fell_silent_is_crashed_and_ended_by_another_worker(plane: Any) -> None:
    run = plane.submit(seed=11)
    plane.wait_until_training(run)
    before, process = plane.built(), plane.process_of(run)
    plane.kill("worker")  # first: so that nobody is left to report the other
    plane.end(process)
    saved = plane.checkpoints()[-1]
    assert plane.is_in(run, "Running")
    plane.wait_for(run, "Crashed", "AwaitingRetry")
    plane.local("start")
    plane.require_continued(run, saved, before)
    assert plane.run(run).run_count == 2


def test_a_run_that_was_taken_and_never_began_is_scheduled_again(plane: Any) -> None:
    """Its ten minutes are half a minute here; that it leaves alone what did begin, all the other tests show."""
    run_python(plane, "-c", QUICK_TO_GIVE_UP)
    plane.kill("worker")
    run = plane.submit(seed=14, until="corpus")
    with plane.client as client:
        client.set_flow_run_state(run, Pending(), force=True)  # what a worker does just before it starts a process
    plane.wait_for(run, "AwaitingRetry", "Late")
    plane.local("start")
    plane.wait_for(run, "Completed")
    assert "updated" in run_python(plane, "infra/automations.py")


def test_a_second_crash_is_final(plane: Any) -> None:
    run = plane.submit(seed=12)
    for count in (1, 2):
        plane.wait_until(lambda count=count: plane.run(run).run_count == count, lambda: plane.story(run))
        plane.end(plane.process_of(run))
    plane.wait_for(run, "Crashed")
    plane.stays(run, "Crashed", for_s=60)
    assert plane.run(run).run_count == 2


def test_bad_ends_and_kept_champions_are_told(plane: Any, listener: Listener) -> None:
    assert "no alerts: set DDLM_ALERTS_URL" in run_python(plane, "infra/automations.py")
    url = f"http://127.0.0.1:{listener.server_port}/"
    said = run_python(plane, "infra/automations.py", DDLM_ALERTS_URL=url)
    assert said.count("created") == 2
    assert run_python(plane, "infra/automations.py").count("unchanged") == 5
    run = plane.submit(seed=13, **{"training.stepz": 1})
    plane.wait_for(run, "Failed")
    plane.wait_until(lambda: any("full-pipeline Failed" in text for text in listener.posted), lambda: listener.posted)
    assert any("training.stepz" in text for text in listener.posted)
    run_python(plane, "-c", KEPT)
    plane.wait_until(lambda: any("ddlm-tiny: the champion stays" in text for text in listener.posted))
    assert any("0.1 bits per byte worse" in text for text in listener.posted)
