import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.bare_names import bare_name_at

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
