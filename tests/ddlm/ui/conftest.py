"""The tiny model on the page's shelf, in float32."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ddlm.generation import DiffusionPipeline
from ddlm.ui import Limits
from ddlm.ui.order import Order, read_order
from ddlm.ui.shelf import Loaded
from tests.ddlm.ui.serving import Server, serving

Ask = Callable[..., Order]


@pytest.fixture(scope="session")
def loaded(tiny_model: Path) -> Loaded:
    return Loaded(DiffusionPipeline.from_pretrained(tiny_model, precision="float32"))


@pytest.fixture
def ask() -> Ask:
    """An order from what is typed; eight steps unless asked otherwise."""

    def order(text: str = "", **values: object) -> Order:
        return read_order({"text": text, "num_sampling_steps": 8, **values}, Limits())

    return order


@pytest.fixture(scope="session")
def home_of_two(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with two experiments."""
    home = tmp_path_factory.mktemp("page") / "outputs"
    for name in ("fox", "owl"):
        shutil.copytree(tiny_model, home / name / "model")
    return home


@pytest.fixture(scope="session")
def server(home_of_two: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = ("--max-length", "8000", "--max-samples", "2", "--at-once", "2", "--waiting", "3")
    with serving(home_of_two, tmp_path_factory.mktemp("server"), "--port", "0", *limits) as server:
        yield server
        assert not server.strangers()
