"""All of the machine at once: kill -9 of servers, worker and run. The next start brings the run to its end."""

from typing import Any

import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


def kill_all(plane: Any, run: Any) -> None:
    """The worker first, so that nobody is left to report the run."""
    process = plane.process_of(run)
    plane.kill("worker")
    plane.end(process)
    plane.kill("prefect")
    plane.kill("mlflow")


def test_a_run_continues_after_everything_died_at_once(plane: Any) -> None:
    run = plane.submit(seed=21)
    plane.wait_until_training(run)
    before = plane.built()
    kill_all(plane, run)
    saved = plane.checkpoints()[-1]
    plane.local("start")
    plane.require_continued(run, saved, before)
    assert plane.run(run).run_count == 2


def test_a_run_that_crashed_before_it_began_is_scheduled_again_by_the_next_start_once(plane: Any) -> None:
    plane.kill("worker")
    run = plane.submit(seed=22, until="corpus")
    plane.crash(run)
    assert f"scheduled again  {plane.run(run).name}" in plane.local("start")
    plane.wait_for(run, "Completed")
    assert plane.run(run).run_count == 1
    plane.kill("worker")
    plane.crash(run)
    assert "scheduled again" not in plane.local("start")


def test_a_run_that_completed_is_not_called_silent_by_a_server_that_was_started_again(plane: Any) -> None:
    run = plane.submit(seed=23)
    plane.wait_until_training(run)
    plane.kill("prefect")
    plane.local("start")
    plane.wait_for(run, "Completed")
    plane.stays(run, "Completed", for_s=100)
    assert not plane.acted_on(run)
