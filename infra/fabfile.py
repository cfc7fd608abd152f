"""How a box over SSH comes to run ddlm: `fab -r infra -H user@box bootstrap worker`.

The box needs Python 3.11 or newer with venv, make, tar and, for `worker`, systemd.
"""

import subprocess
import tempfile
from pathlib import Path

from fabric import Connection, task
from invoke import Exit

PROJECT = Path(__file__).resolve().parents[1]
FOLDER = "ddlm"
UNIT = "ddlm-worker.service"
UNITS = ".config/systemd/user"


@task
def bootstrap(box: Connection) -> None:
    """Put the committed tree into ~/ddlm and install it. What is there already (outputs, .env, .venv) stays."""
    with tempfile.NamedTemporaryFile(suffix=".tar.gz") as archive:
        subprocess.run(["git", "-C", PROJECT, "archive", "--format=tar.gz", "-o", archive.name, "HEAD"], check=True)
        box.put(archive.name, ".ddlm.tar.gz")
    box.run(f"mkdir -p {FOLDER} && tar -xzf .ddlm.tar.gz -C {FOLDER} && rm .ddlm.tar.gz")
    box.run(f"make -C {FOLDER} setup")
    box.run(f"{FOLDER}/.venv/bin/ddlm --version")


@task
def worker(box: Connection) -> None:
    """Start a Prefect worker that survives logging out and rebooting. ~/ddlm/.env says where its server is."""
    if not box.run(f"grep -qs ^PREFECT_API_URL= {FOLDER}/.env", warn=True, hide=True):
        raise Exit(f"~/{FOLDER}/.env on the box sets no PREFECT_API_URL: the server that it asks for work")
    box.run(f"mkdir -p {UNITS}")
    box.put(str(PROJECT / "infra" / UNIT), f"{UNITS}/{UNIT}")
    box.run(f"systemctl --user daemon-reload && systemctl --user enable --now {UNIT} && loginctl enable-linger")
