"""Artifacts of the tiny experiment, built once a session by the real stages."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from ddlm.artifacts import Artifact, ArtifactStore
from ddlm.experiment import Experiment, load_experiment
from ddlm.experiment.stages import Session, run_plainly
from tests.chromium import CHROMIUM, FLAGS

TINY = Path(__file__).parents[2] / "configs" / "tiny.toml"


class Recorder:
    """A run log that keeps what it is told."""

    id = None

    def __init__(self) -> None:
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.files: list[str] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.metrics.append((step, dict(metrics)))

    def upload(self, path: Path, folder: str) -> None:
        self.files.append(f"{folder}/{path.name}")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def tiny() -> Experiment:
    return load_experiment(TINY, {"tracking.backend": "none"})


@pytest.fixture(scope="session")
def tiny_artifacts(tiny: Experiment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """corpus, tokenizer, shards and train."""
    store = ArtifactStore(tmp_path_factory.mktemp("tiny") / "artifacts")
    return run_plainly(Session(tiny, store=store), until="train")


@pytest.fixture(scope="session")
def tiny_model(tiny_artifacts: dict[str, Artifact]) -> Path:
    return tiny_artifacts["train"].path


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").sync_playwright()
    with playwright as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()
