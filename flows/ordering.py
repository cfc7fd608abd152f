"""The order of a Prefect server's events, for one that was started again (PREFECT_SERVER_EVENTS_CAUSAL_ORDERING).

The event of a state that follows another within five minutes waits until that other one's has been looked at. Prefect
keeps in memory which have been; a server that has just begun would wait for what its predecessor saw, a quarter of an
hour, and by then nobody acts on it any more: a crashed run is not scheduled again, a completed one is called silent.
"""

from uuid import UUID

import sqlalchemy
from prefect.server.database import PrefectDBInterface, db_injector
from prefect.server.events.ordering import memory
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.types import DateTime
from prefect.types._datetime import now

STARTED = now("UTC")
"""When this server began, which imports this module as it does."""


class CausalOrdering(memory.CausalOrdering):
    async def wait_for_leader(self, event: ReceivedEvent) -> None:
        """Raises: EventArrivedEarly where the other event is still to come."""
        if not (event.follows and await is_older_than(STARTED, event.follows)):
            await super().wait_for_leader(event)


@db_injector
async def is_older_than(db: PrefectDBInterface, moment: DateTime, state_id: UUID) -> bool:
    """Whether it is the state of a flow run, which its event shares its id with, and of before that moment."""
    async with db.session_context() as session:
        became = await session.scalar(
            sqlalchemy.select(db.FlowRunState.timestamp).where(db.FlowRunState.id == state_id)
        )
    return became is not None and became < moment
