"""A Prefect server that was started again, and events that follow what its predecessor saw."""

import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.server.events.ordering import EventArrivedEarly
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings
from prefect.types._datetime import now

from flows import ordering

pytestmark = pytest.mark.usefixtures("server")


@flow
def ended() -> None:
    pass


def following(state: UUID) -> ReceivedEvent:
    occurred = now("UTC")
    resource = {"prefect.resource.id": f"prefect.flow-run.{uuid4()}"}
    return ReceivedEvent(
        id=uuid4(),
        occurred=occurred,
        received=occurred,
        event="prefect.flow-run.Crashed",
        resource=resource,
        follows=state,
    )


def wait_for_leader(home: Path, state: UUID) -> None:
    """As a server on the session's database does."""
    url = f"sqlite+aiosqlite:///{home / 'prefect' / 'prefect.db'}"
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: url}):
        asyncio.run(ordering.CausalOrdering(f"test-{uuid4()}").wait_for_leader(following(state)))


def test_what_follows_a_state_of_before_the_restart_waits_for_nothing(
    prefect_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = ended(return_state=True)
    monkeypatch.setattr(ordering, "STARTED", now("UTC"))
    wait_for_leader(prefect_home, state.id)


def test_what_follows_a_state_of_this_servers_time_waits_for_it(
    prefect_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "STARTED", now("UTC"))
    state = ended(return_state=True)
    with pytest.raises(EventArrivedEarly):
        wait_for_leader(prefect_home, state.id)
    with pytest.raises(EventArrivedEarly):
        wait_for_leader(prefect_home, uuid4())
