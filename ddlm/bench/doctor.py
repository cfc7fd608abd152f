"""What this machine is and has, as far as ddlm cares."""

import os
import platform
import shutil
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from ddlm.config import home

PACKAGES = ("ddlm", "torch", "prefect", "mlflow", "datasets", "tokenizers", "onnx", "onnxruntime", "gradio", "wandb")


def examine() -> dict[str, Any]:
    """Versions, hardware, precision, servers and free disk. Starts nothing and changes nothing."""
    import torch

    from ddlm.model.device import pick_device, pick_precision

    device = pick_device("auto")
    folder = next(path for path in (home(), *home().parents) if path.exists())
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "cores": os.cpu_count(),
        "precision": pick_precision("auto", device),
        "home": str(home()),
        "home_can_be_written": os.access(folder, os.W_OK),
        "store": os.environ.get("DDLM_STORE", "the home folder's"),
        "free_disk_bytes": shutil.disk_usage(folder).free,
        "prefect_server": _server(os.environ.get("PREFECT_API_URL"), "/health"),
        "mlflow_server": _server(os.environ.get("MLFLOW_TRACKING_URI"), "/health"),
    }


def processor() -> str:
    """As its maker calls it, where the system says so; else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _server(url: str | None, probe: str) -> str:
    if not url or not url.startswith("http"):
        return "none set; ddlm brings its own"
    try:
        with urlopen(url.rstrip("/") + probe, timeout=3) as answer:
            return f"{url} answers {answer.status}"
    except (URLError, OSError) as error:
        return f"{url} does not answer ({error})"
