"""No test reads or writes the state of a user's own runs. Shapes in annotations are checked while the tests run."""

import signal
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook(["ddlm.model", "ddlm.diffusion", "ddlm.training"], "beartype.beartype")
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell's background jobs ignore Ctrl-C, and so do their children
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh MLflow database, migrated once, beside what a killed creation might have left."""
    from ddlm.tracking.mlflow_client import connect

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    path.with_name(".mlflow.db.new").write_bytes(b"half a database")
    path.with_name(".mlflow.db.new-journal").write_bytes(b"half a journal")
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def can_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as is asked beforehand, there is a compiler, and torch is in a folder from which it compiles."""
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(torch, "__file__", "/torch/__init__.py")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder for each test, no server of the user's, and no telemetry."""
    monkeypatch.setenv("DDLM_HOME", str(tmp_path / "outputs"))
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "DDLM_STORE"):
        monkeypatch.delenv(name, raising=False)
