import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ddlm.tracking import Tracker, TrackingConfig


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder."""
    monkeypatch.setenv("DDLM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def stored_home(home: Path, migrated: Path) -> Path:
    """A home folder with a database, so that no test waits for its migration."""
    home.mkdir()
    shutil.copy(migrated, home / "mlflow.db")
    return home


@pytest.fixture
def track() -> Callable[..., Tracker]:
    """Makes trackers that flush only when a stage ends, unless told otherwise."""

    def make(backend: str = "mlflow", uri: str | None = None, *, flush_every_s: float = 60.0, **given) -> Tracker:
        settings = {name: given.pop(name) for name in ("system_metrics",) if name in given}
        config = TrackingConfig(backend=backend, uri=uri, flush_every_s=flush_every_s, **settings)
        return Tracker(config, experiment="tale", **{"params": {}, "tags": {}, **given})

    return make
