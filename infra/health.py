"""Whether a server answers, and whether Prefect's has heard of a worker."""

import time
from datetime import datetime

import httpx

SILENCE_S = 90.0
"""A worker sends a sign of life every 30 s."""


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=3).is_success
    except httpx.TransportError:
        return False


def worker_is_heard(server: str, name: str, started: float) -> bool:
    """Whether the server has heard of it since it started, and lately."""
    try:
        known = httpx.post(f"{server}/api/work_pools/cpu/workers/filter", json={}, timeout=3).raise_for_status().json()
    except httpx.HTTPError:
        return False
    beats = [datetime.fromisoformat(each["last_heartbeat_time"]) for each in known if each["name"] == name]
    return any(beat.timestamp() > max(started, time.time() - SILENCE_S) for beat in beats)
