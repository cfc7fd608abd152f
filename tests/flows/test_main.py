"""`python -m flows`, and what the forms of the deployments say."""

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import parameter_schema

from ddlm.config import UserError
from flows.__main__ import FLOWS, main, parse_parameter

ROOT = Path(__file__).parents[2]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    file, _, name = deployment["entrypoint"].partition(":")
    found: Flow[..., Any] = getattr(import_module(file.removesuffix(".py").replace("/", ".")), name)
    return found


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ("trials=4", ("trials", 4)),
        ("prune=false", ("prune", False)),
        ('grid={"training.steps": [2, 4]}', ("grid", {"training.steps": [2, 4]})),
        ("model=ddlm-quick@champion", ("model", "ddlm-quick@champion")),
        ("filter=tags.x = 'y'", ("filter", "tags.x = 'y'")),
    ],
)
def test_parameters_are_json_or_text(text: str, parameter: tuple[str, object]) -> None:
    assert parse_parameter(text) == parameter


def test_a_parameter_without_a_value_is_refused() -> None:
    with pytest.raises(UserError, match="trials"):
        parse_parameter("trials")


@pytest.mark.parametrize(("arguments", "got"), [(["compair"], "'compair'"), ([], "''")])
def test_an_unknown_flow_is_one_line_and_exit_code_2(
    arguments: list[str], got: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    wanted = "full-pipeline, retrain, evaluate, sweep, compare"
    assert capsys.readouterr().err == f"unknown flow {got}; wanted one of {wanted}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "experiment=nosuch"], "compare: no runs found for experiment 'nosuch' in sqlite:"),
        (["compare", "experimint=x"], "compare: Error binding parameters for function 'compare': got an unexpected"),
        (["sweep", "experiment=configs/tiny.toml", "grid={}"], "sweep: the grid or study has no values to try"),
        (["evaluate", "model=ddlm-tiny/9"], "model ddlm-tiny/9: nothing was registered in "),
        (
            ["evaluate", "budget=huge"],
            "evaluate: Flow run received invalid parameters: - budget: Input should",
        ),
    ],
)
def test_the_users_mistakes_are_one_line_and_exit_code_2(
    server: str, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with temporary_settings({PREFECT_API_URL: server}):
        assert main(arguments) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith(message)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_a_deployment_s_form_explains_each_parameter(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    assert deployment["name"].removesuffix("-gpu") == flow.name
    fields = parameter_schema(flow).properties
    assert all(field.get("description") for field in fields.values())
    assert set(deployment.get("parameters", {})) <= set(fields)


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_is_a_sentence(name: str) -> None:
    module, _, function = FLOWS[name].partition(":")
    flow = getattr(import_module(module), function)
    assert flow.name == name
    assert len(inspect.getsourcelines(flow.fn)[0]) <= 40


def test_every_flow_is_deployed() -> None:
    assert {flow_of(deployment).name for deployment in DEPLOYMENTS} == set(FLOWS)
