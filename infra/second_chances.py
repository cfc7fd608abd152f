"""Schedules the runs that crashed and were never scheduled again: `python infra/second_chances.py`.

infra/automations.py does that while the server lives. What it can't see, this looks for before a worker starts: what
happened as server, worker and run all died at once, and runs that crashed before they began.
"""

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
from automations import AGAIN, SETTLED_S
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import get_current_settings

RECENT = timedelta(days=7)
"""What crashed before, nobody waits for."""
GRACE_S = 10
"""What an automation may take to act."""


def crashed(client: SyncPrefectClient) -> Iterator[FlowRun]:
    """Runs of deployments that had one chance and no more."""
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED])),
        deployment_id=FlowRunFilterDeploymentId(is_null_=False),
    )
    for run in client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.START_TIME_DESC):
        states = client.read_flow_run_states(run.id)
        if age(run) < RECENT and not any(state.name == AGAIN for state in states):
            yield run


def age(run: FlowRun) -> timedelta:
    """Since its state changed."""
    assert run.state
    return datetime.now(UTC) - run.state.timestamp


def schedule(client: SyncPrefectClient, run: FlowRun) -> None:
    """Once all that report its crash have, and unless the automation was faster."""
    settled = timedelta(seconds=SETTLED_S + GRACE_S) - age(run)
    time.sleep(max(0.0, settled.total_seconds()))
    state = client.read_flow_run(run.id).state
    if state and state.is_crashed():
        again = State(type=StateType.SCHEDULED, name=AGAIN, message="crashed; it continues at its last checkpoint")
        client.set_flow_run_state(run.id, again, force=True)
        print(f"scheduled again  {run.name}, which crashed")


def main() -> None:
    """Raises: SystemExit with one line when no server answers."""
    with get_client(sync_client=True) as client:
        try:
            for run in list(crashed(client)):
                schedule(client, run)
        except httpx.TransportError as error:
            url = get_current_settings().api.url
            sys.exit(f"PREFECT_API_URL {url}: no Prefect server answers ({error}); start it with `make server`")


if __name__ == "__main__":
    main()
