"""A home folder with a real MLflow database, copied so that no test waits for its migration."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ddlm.tracking.mlflow_client import connect


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrated: Path) -> Path:
    monkeypatch.setenv("DDLM_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    shutil.copy(migrated, tmp_path / "home" / "mlflow.db")
    return tmp_path / "home"


@pytest.fixture
def client(home: Path) -> MlflowClient:
    return connect(f"sqlite:///{home / 'mlflow.db'}")
