"""What the Prefect server does by itself: `python infra/automations.py`, given again, changes what changed.

- A run of which nothing is heard for three heartbeats is Crashed: its process was killed and nobody was left to say so.
- A deployment's run that crashed is scheduled again, once: it continues at its last checkpoint.
- One that a worker took and that never began is scheduled again: the worker died in between.
- Failures, crashes and a challenger that lost are sent to the notification block `ddlm-alerts`. DDLM_ALERTS_URL makes
  that block a webhook that gets `{"text": …}`, as Slack and Mattermost read it; any other block of that name will do.
"""

import os
import sys
from datetime import timedelta

import httpx
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.settings import get_current_settings

ALERTS = "ddlm-alerts"
HEARTBEAT_S = 30
"""PREFECT_FLOWS_HEARTBEAT_FREQUENCY of every worker; Prefect takes no less."""
SETTLED_S = 30
"""How long a run has been Crashed before it is scheduled again."""
BEGUN_S = 600
"""How long a worker may need to begin a run that it has taken: its pull steps may clone and install."""
AGAIN = "AwaitingRetry"
"""The state of a run that is scheduled again."""
RUNS = {"prefect.resource.id": "prefect.flow-run.*"}

ZOMBIES = AutomationCore(
    name="ddlm: runs that fell silent are Crashed",
    trigger=EventTrigger(
        posture=Posture.Proactive,
        match=RUNS,
        for_each={"prefect.resource.id"},
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.*"},  # the next heartbeat, or any state
        within=timedelta(seconds=3 * HEARTBEAT_S),
    ),
    actions=[
        ChangeFlowRunState(
            state=StateType.CRASHED, message=f"no heartbeat for {3 * HEARTBEAT_S} s: its process is gone or cut off"
        )
    ],
)
SECOND_CHANCE = AutomationCore(
    name="ddlm: crashed runs are scheduled again, once",
    # Not at once: the process's runner and its worker both report a crash, seconds apart, and the later report would
    # undo what was done about the first.
    trigger=EventTrigger(
        posture=Posture.Proactive,
        match={**RUNS, "prefect.run-count": "1"},
        match_related={"prefect.resource.role": "deployment"},  # nobody but a worker could take it up again
        for_each={"prefect.resource.id"},
        after={"prefect.flow-run.Crashed"},
        expect={"prefect.flow-run.*"},
        within=timedelta(seconds=SETTLED_S),
    ),
    actions=[
        ChangeFlowRunState(
            name=AGAIN, state=StateType.SCHEDULED, message="crashed; it continues at its last checkpoint"
        )
    ],
)
STATES = (
    "Running", "Scheduled", AGAIN, "AwaitingConcurrencySlot", "Late", "Paused", "Completed", "Failed",
    "Crashed", "Cancelling", "Cancelled",
)  # fmt: skip
"""What a run may become that a worker has taken."""
NEVER_BEGUN = AutomationCore(
    name="ddlm: runs that were taken and never began are scheduled again",
    trigger=EventTrigger(
        posture=Posture.Proactive,
        match=RUNS,
        match_related={"prefect.resource.role": "deployment"},
        for_each={"prefect.resource.id"},
        after={"prefect.flow-run.Pending"},
        expect={f"prefect.flow-run.{state}" for state in STATES},
        within=timedelta(seconds=BEGUN_S),
    ),
    actions=[
        ChangeFlowRunState(
            name=AGAIN,
            state=StateType.SCHEDULED,
            message=f"a worker took it and had not begun after {BEGUN_S} s",
        )
    ],
)


def alerts(block_id: str) -> list[AutomationCore]:
    ended = SendNotification(
        block_document_id=block_id,
        subject="{{ flow.name }} {{ flow_run.state.name }}",
        body="{{ flow_run.name }}: {{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
    )
    kept = SendNotification(
        block_document_id=block_id,
        subject="{{ event.resource.name }}: the champion stays",
        body="{{ event.payload.reason }}",
    )
    bad_ends = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")}
    return [
        AutomationCore(
            name="ddlm: bad ends are told",
            trigger=EventTrigger(posture=Posture.Reactive, match=RUNS, expect=bad_ends, within=timedelta(0)),
            actions=[ended],
        ),
        AutomationCore(
            name="ddlm: a challenger that lost is told",
            trigger=EventTrigger(
                posture=Posture.Reactive,
                match={"prefect.resource.id": "ddlm.model.*"},
                expect={"ddlm.champion.kept"},
                within=timedelta(0),
            ),
            actions=[kept],
        ),
    ]


def alert_block(client: SyncPrefectClient) -> str | None:
    """The id of the block to notify, made from DDLM_ALERTS_URL where that is set; None when there is none."""
    url = os.environ.get("DDLM_ALERTS_URL")
    if url:
        block = CustomWebhookNotificationBlock(name=ALERTS, url=url, json_data={"text": "{{subject}}\n{{body}}"})
        return str(block.save(ALERTS, overwrite=True))
    found = [block for block in client.read_block_documents() if block.name == ALERTS]
    return str(found[0].id) if found else None


def put(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Make it, or make the one of that name like it. What is like it already is left alone: an update would forget
    which runs it is just waiting for."""
    known = client.read_automations_by_name(automation.name)
    for extra in known[1:]:
        client.delete_automation(extra.id)
    if not known:
        client.create_automation(automation)
        print(f"created    {automation.name}")
    elif known[0].model_dump(include=set(AutomationCore.model_fields)) != automation.model_dump():
        client.update_automation(known[0].id, automation)
        print(f"updated    {automation.name}")
    else:
        print(f"unchanged  {automation.name}")


def main() -> None:
    """Raises: SystemExit with one line when no server answers."""
    with get_client(sync_client=True) as client:
        try:
            client.hello()
        except httpx.TransportError as error:
            url = get_current_settings().api.url
            sys.exit(f"PREFECT_API_URL {url}: no Prefect server answers ({error}); start it with `make server`")
        block = alert_block(client)
        for automation in [ZOMBIES, SECOND_CHANCE, NEVER_BEGUN, *(alerts(block) if block else [])]:
            put(client, automation)
    if not block:
        print(f"no alerts: set DDLM_ALERTS_URL, or make a notification block named {ALERTS}, and give this again")


if __name__ == "__main__":
    main()
