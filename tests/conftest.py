"""No test reads or writes the state of a user's own runs."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder for each test, no server of the user's, and no telemetry."""
    monkeypatch.setenv("DDLM_HOME", str(tmp_path / "outputs"))
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
