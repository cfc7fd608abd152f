import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

import httpx
import pytest
import yaml

from flows.bare_names import asks_a_server, deployment_at, flows_of, full_name, queued_name, require_server

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command",
    [
        "prefect deployment run NAME",
        "/somewhere/bin/prefect deployment run NAME --watch",
        "prefect deployment run --watch NAME",
        "prefect deployment run -p until=train --flow-run-name x NAME",
        "prefect deployment run --tag=x NAME",
        "prefect --no-prompt deployment run NAME --param experiment=configs/tiny.toml",
        "-m deployment run NAME",
        "prefect deployment run flow/NAME --tag x",
    ],
)
def test_a_bare_name_is_found(command: str) -> None:
    words = command.split()
    position = deployment_at(words)
    assert position
    assert words[position].endswith("NAME")


@pytest.mark.parametrize(
    "command",
    [
        "prefect deployment run --id NAME",
        "prefect deployment run",
        "prefect deployment inspect NAME",
        "prefect flow-run ls",
        "prefect deployment",
        "someone.py deployment run NAME",
    ],
)
def test_other_commands_are_left_alone(command: str) -> None:
    assert deployment_at(command.split()) is None


@pytest.mark.parametrize("program", [["prefect"], [sys.executable, "-m", "prefect"]])
def test_prefect_itself_takes_the_bare_name(server: str, program: list[str]) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*program, "deployment", "run", "full-pipeline"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PREFECT_API_URL": server, "PATH": path},
    )  # fmt: skip
    assert "full-pipeline: taken as full-pipeline/full-pipeline" in done.stderr
    assert "Deployment 'full-pipeline/full-pipeline' not found!" in done.stdout + done.stderr


def test_a_queued_run_is_named_by_what_was_asked_for() -> None:
    words = ["-p", "experiment=a.toml", "--param=until=train", "--watch", "--params", '{"verify": true}']
    assert queued_name("sweep", words) == 'sweep experiment=a.toml ("verify": true) until=train, queued'
    assert queued_name("evaluate", []) == "evaluate, queued"


def test_a_queued_run_has_its_name_on_the_server(server: str) -> None:
    flow_id = httpx.post(f"{server}/flows/", json={"name": "full-pipeline"}).json()["id"]
    schema = {"type": "object", "properties": {"experiment": {"type": "string"}, "overrides": {}}}
    body = {"name": "named", "flow_id": flow_id, "parameter_openapi_schema": schema, "enforce_parameter_schema": False}
    answer = httpx.post(f"{server}/deployments/", json=body)
    assert answer.is_success, answer.text
    for own in ([], ["--flow-run-name", "mine"]):
        subprocess.run(
            [sys.executable, "-m", "prefect", "deployment", "run", "named", "-p", "experiment=a.toml", "-p",
             'overrides={"a.b": 1}', *own],
            cwd=ROOT, check=True, env={**os.environ, "PREFECT_API_URL": server},
        )  # fmt: skip
    found = httpx.post(f"{server}/flow_runs/filter", json={"deployments": {"name": {"any_": ["named"]}}}).json()
    assert {run["name"] for run in found} == {'named experiment=a.toml overrides=("a.b": 1), queued', "mine"}


def test_every_deployment_is_found_by_its_bare_name(server: str) -> None:
    """By the server's word, since a deployment's name says nothing of its flow's."""
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    wanted = {}
    for deployment in deployments:
        path, _, function = deployment["entrypoint"].partition(":")
        flow = getattr(import_module(path.removesuffix(".py").replace("/", ".")), function)
        flow_id = httpx.post(f"{server}/flows/", json={"name": flow.name}).json()["id"]
        body = {"name": deployment["name"], "flow_id": flow_id}
        httpx.post(f"{server}/deployments/", json=body).raise_for_status()
        wanted[deployment["name"]] = f"{flow.name}/{deployment['name']}"
    assert len(wanted) > 6
    assert {name: full_name(name, flows_of(name, server)) for name in wanted} == wanted
    assert flows_of("nobody", server) == []


def test_a_name_that_several_flows_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert full_name("a", ["a", "b"]) == "a/a"
    with pytest.raises(SystemExit, match="2"):
        full_name("nightly", ["a", "b"])
    assert capsys.readouterr().err == "deployment nightly: a, b have one each; write FLOW/nightly\n"


def test_an_address_without_api_is_told(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!DOCTYPE html><html></html>")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        with pytest.raises(SystemExit, match="2"):
            require_server(f"http://127.0.0.1:{pages.server_port}")
        pages.shutdown()
    assert "its address ends in /api" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "asks"),
    [
        ("prefect deployment run NAME --watch", True),
        ("prefect --no-prompt deploy --all", True),
        ("-m work-pool create cpu", True),
        ("prefect deployment run --help", False),
        ("prefect server start", False),
        ("prefect", False),
        ("someone.py deployment run NAME", False),
    ],
)
def test_a_command_that_needs_a_server_is_known(command: str, asks: bool) -> None:
    assert asks_a_server(command.split()) is asks


def test_a_server_that_is_down_is_one_line_and_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "run", "full-pipeline", "--watch"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("PREFECT_API_URL http://127.0.0.1:9/api: no Prefect server answers (")
    assert line.endswith("start it with `make server`")


def test_an_answer_of_any_kind_is_a_server_and_no_address_is_said(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    require_server(server)
    require_server(f"{server}/nowhere")
    assert capsys.readouterr().err == ""
    require_server(None)
    assert "PREFECT_API_URL is not set" in capsys.readouterr().err
