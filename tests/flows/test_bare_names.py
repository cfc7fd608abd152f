import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.bare_names import asks_a_server, bare_name_at, require_server

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
    ],
)
def test_a_bare_name_is_found(command: str) -> None:
    words = command.split()
    assert bare_name_at(words) == words.index("NAME")


@pytest.mark.parametrize(
    "command",
    [
        "prefect deployment run flow/NAME",
        "prefect deployment run flow/NAME --tag NAME",
        "prefect deployment run --id NAME",
        "prefect deployment run",
        "prefect deployment inspect NAME",
        "prefect flow-run ls",
        "prefect deployment",
        "someone.py deployment run NAME",
    ],
)
def test_other_commands_are_left_alone(command: str) -> None:
    assert bare_name_at(command.split()) is None


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
