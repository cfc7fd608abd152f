"""When each scheduled deployment runs next, and in one line why it never will: `python infra/schedules.py`."""

import sys
from collections.abc import Iterator

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter, FlowRunFilterState
from prefect.client.schemas.filters import FlowRunFilterStateType as OfType
from prefect.client.schemas.objects import DeploymentSchedule, StateType, WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import get_current_settings

SCHEDULED = FlowRunFilter(state=FlowRunFilterState(type=OfType(any_=[StateType.SCHEDULED])))


def lines(client: SyncPrefectClient) -> Iterator[tuple[bool, str]]:
    """Whether it fires, and what there is to say, of every schedule."""
    for deployment in client.read_deployments():
        for schedule in deployment.schedules:
            why = obstacle(client, deployment, schedule)
            about = f"{deployment.name}, {getattr(schedule.schedule, 'cron', schedule.schedule)}"
            yield not why, f"{about}: never runs: {why}" if why else f"{about}: next {moment(client, deployment)}"


def obstacle(client: SyncPrefectClient, deployment: DeploymentResponse, schedule: DeploymentSchedule) -> str:
    """What keeps it from running, and what to do; empty where nothing does."""
    pool, queue = deployment.work_pool_name, deployment.work_queue_name
    if deployment.paused:
        return f"the deployment is paused; prefect deployment schedule resume, or its page: {deployment.name}"
    if not schedule.active:
        return "the schedule is not active; set active: true in prefect.yaml, then make deploy"
    if moment(client, deployment) is None:
        return "no date fits it; mend it in prefect.yaml, then make deploy"
    if client.read_work_pool(pool).is_paused or client.read_work_queue_by_name(queue, pool).is_paused:
        return f"pool {pool} or its queue {queue} is paused; resume it on its page"
    if not any(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(pool)):
        return f"no worker serves pool {pool}; make worker POOL={pool}"
    return ""


def moment(client: SyncPrefectClient, deployment: DeploymentResponse) -> str | None:
    """When the next run is due."""
    of_it = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    by_time = FlowRunSort.EXPECTED_START_TIME_ASC
    due = client.read_flow_runs(deployment_filter=of_it, flow_run_filter=SCHEDULED, sort=by_time, limit=1)
    return f"{due[0].expected_start_time:%a %Y-%m-%d %H:%M %Z}" if due else None


def main() -> None:
    """Raises: SystemExit, with exit code 1 where one never runs, and one line where no server answers."""
    with get_client(sync_client=True) as client:
        try:
            found = list(lines(client))
        except httpx.TransportError as error:
            url = get_current_settings().api.url
            sys.exit(f"PREFECT_API_URL {url}: no Prefect server answers ({error}); start it with `make server`")
    for _, line in found:
        print(line)
    if not found:
        print("no deployment has a schedule; make deploy")
    sys.exit(0 if found and all(fires for fires, _ in found) else 1)


if __name__ == "__main__":
    main()
