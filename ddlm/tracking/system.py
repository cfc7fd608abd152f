"""How busy the machine is while a run is tracked, as MLflow's own monitors measure it."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ddlm.tracking.outbox import Outbox

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

EVERY_S = 10.0
"""A short run has none of it: nothing is measured before this time."""


class SystemWatch:
    """A thread that reports `system/…`, under the names by which MLflow's page finds them.

    Through the outbox: MLflow's own thread would wait for a server that is down, and lose what it measured.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._stop = threading.Event()

    def start(self, run: str) -> None:
        threading.Thread(target=self._work, args=(run,), name="ddlm-system-metrics", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _work(self, run: str) -> None:
        measured, monitors = 0, None
        while not self._stop.wait(EVERY_S):
            monitors = monitors or _monitors()  # not before: mlflow's import is slow, and others wait for it
            for monitor in monitors:
                monitor.collect_metrics()
                metrics = {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
                self._outbox.log(run, metrics, measured)
            measured += 1


def _monitors() -> "Sequence[BaseMetricsMonitor]":
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    found: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        return [*found, GPUMonitor()]
    except (ImportError, RuntimeError):  # its package is missing, or there is no GPU
        return found
