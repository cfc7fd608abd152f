"""The train stage on the tiny artifacts, with settings of the test's own."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddlm.artifacts import Artifact, RunLog, Unlogged, Workspace
from ddlm.experiment import Experiment
from ddlm.training import stage

Train = Callable[..., Path]


@pytest.fixture
def train(tiny_artifacts: dict[str, Artifact], tiny: Experiment, tmp_path: Path) -> Train:
    """`train(name, run, section={…}, **training)` trains into `tmp_path / name` and returns that folder.

    `output` in it is the artifact, `scratch` the checkpoints, which stay when it is called again.
    """

    def run(name: str, log: RunLog | None = None, **settings: Any) -> Path:
        folder = tmp_path / name
        output = folder / "output"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        (folder / "scratch").mkdir(exist_ok=True)
        model, objective = settings.pop("model", {}), settings.pop("objective", {})
        inputs = {artifact: tiny_artifacts[artifact].path for artifact in ("tokenizer", "shards")}
        stage.build(
            Workspace(inputs, output, folder / "scratch", log or Unlogged()),
            seed=tiny.seed,
            model=type(tiny.model)(**tiny.model.model_dump() | model),
            objective=type(tiny.objective)(**tiny.objective.model_dump() | objective),
            training=type(tiny.training)(**tiny.training.model_dump() | settings),
            source={},
        )
        return folder

    return run
