"""No test reads or writes the state of a user's own runs. Shapes in annotations are checked while the tests run."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook(["ddlm.model", "ddlm.diffusion", "ddlm.training"], "beartype.beartype")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder for each test, no server of the user's, and no telemetry."""
    monkeypatch.setenv("DDLM_HOME", str(tmp_path / "outputs"))
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
