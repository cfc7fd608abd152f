"""kill -9 and SIGTERM in the middle of a training, each on real servers: the run ends all the same, and whole."""

import signal
import time
from typing import Any

import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


def test_a_killed_process_is_reported_scheduled_again_and_continues(plane: Any) -> None:
    run = plane.submit(seed=1)
    plane.wait_until_training(run)
    before, process = plane.built(), plane.process_of(run)
    plane.end(process)
    saved = plane.checkpoints()[-1]
    plane.require_continued(run, saved, before)
    assert plane.run(run).run_count == 2


def test_what_a_killed_worker_left_behind_is_ended_by_the_next_one(plane: Any) -> None:
    """The run's output goes to a pipe that nobody reads any more: Prefect takes that for a crash at the next line."""
    run = plane.submit(seed=2)
    plane.wait_until_training(run)
    before = plane.built()
    plane.kill("worker")
    saved = plane.checkpoints()[-1]
    plane.local("start")
    plane.require_continued(run, saved, before)


def test_a_run_outlives_the_prefect_server_and_frees_its_place(plane: Any) -> None:
    run = plane.submit(seed=3)
    plane.wait_until_training(run)
    before = plane.built()
    plane.kill("prefect")
    plane.local("start")
    plane.wait_for(run, "Completed")
    assert before.items() <= plane.built().items()
    plane.require_whole(run)
    after = plane.submit(seed=3)  # the deployment runs one at a time: the dead server must not have kept the place
    plane.wait_for(after, "Completed")


def test_a_run_outlives_the_mlflow_server_and_nothing_it_measured_is_lost(plane: Any) -> None:
    run = plane.submit(seed=4)
    plane.wait_until_training(run)
    before = plane.built()
    plane.kill("mlflow")
    plane.wait_for(run, "Completed")
    assert before.items() <= plane.built().items()
    assert list((plane.home / "spool").iterdir())
    plane.local("start")
    later = plane.submit(seed=40, until="corpus")  # brings along what waited
    plane.wait_for(later, "Completed")
    assert not list((plane.home / "spool").iterdir())
    plane.require_whole(run)
    assert plane.run(run).run_count == 1


def test_sigterm_saves_within_seconds_and_the_run_continues(plane: Any) -> None:
    run = plane.submit(seed=5)
    plane.wait_until_training(run)
    before, process = plane.built(), plane.process_of(run)
    started = time.monotonic()
    plane.end(process, signal.SIGTERM)
    assert time.monotonic() - started < 30
    saved = plane.checkpoints()[-1]
    plane.require_continued(run, saved, before)
    plane.require_nothing_redone(run)


def test_stopping_everything_saves_and_the_next_start_continues(plane: Any) -> None:
    run = plane.submit(seed=6)
    plane.wait_until_training(run)
    before, process = plane.built(), plane.process_of(run)
    plane.local("stop")
    assert not process.is_running()
    saved = plane.checkpoints()[-1]
    plane.local("start")
    plane.leave_to_the_tests()
    plane.require_continued(run, saved, before)
    plane.require_nothing_redone(run)
