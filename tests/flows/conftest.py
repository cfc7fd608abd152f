"""A real server for the session, and stages that take no time."""

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from ddlm.experiment import stages
from flows.server import embedded

PROGRAM = """
import json

calls = []
on_call = {{}}
products = {products!r}


def enter(workspace, name):
    calls.append(name)
    on_call.get(name, lambda: None)()
    file, text = products.get(name, ("made.json", json.dumps([name, sorted(workspace.inputs)])))
    (workspace.output / file).write_text(text)
"""
STAGE = """

def {name}(workspace, **sections):
    enter(workspace, "{name}")
"""
PRODUCTS = {
    "evaluate": (
        "scores.json",
        json.dumps(
            {
                "bits_per_byte": 1.5,
                "bound": "upper",
                "data_digest": "d",
                "data": {"stories": 1, "text_bytes": 9},
                "samples": [],
            }
        ),
    ),
    "render": ("denoising.gif", "GIF89a"),
    "publish": ("publication.json", json.dumps({"reason": "the first model"})),
}


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("session")


@pytest.fixture(scope="session")
def server(prefect_home: Path) -> Iterator[str]:
    """The URL of an embedded server that this process uses until the end of the session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDLM_HOME", str(prefect_home))
        with embedded() as url:
            yield url


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that all stages then build with: `calls` in order, and `on_call` to make one of them do something."""
    functions = "".join(STAGE.format(name=name) for name in stages.STAGES)
    (tmp_path / "work.py").write_text(PROGRAM.format(products=PRODUCTS) + functions)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "work", raising=False)
    monkeypatch.setattr("ddlm.experiment.fingerprint.ROOT", tmp_path)
    for name, stage in stages.STAGES.items():
        monkeypatch.setitem(stages.STAGES, name, replace(stage, build=f"work:{name}", resolve=None))
    return importlib.import_module("work")
