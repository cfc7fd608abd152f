"""The bundle as a stranger has it: its requirements alone, read-only, another user, no network, a name with spaces."""

import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ddlm.diffusion import SamplingConfig

NOBODY = 65534
PYTHONS = (sys._base_executable, "/usr/bin/python3")

pytestmark = [
    pytest.mark.services,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may run a program as another user without a network"),
]


@pytest.fixture(scope="module")
def python():
    """A Python that other users may run."""
    for path in map(Path, PYTHONS):
        places = [path.resolve(), *path.resolve().parents]
        if path.exists() and all(place.stat().st_mode & stat.S_IXOTH for place in places):
            return path
    pytest.skip("no Python that other users may run")


@pytest.fixture(scope="module", params=["jp62", "jp72"])
def environment(request, python, bundle):
    """An empty one, with the packages of a requirements file. Not among pytest's folders: others can't enter."""
    folder = Path(tempfile.mkdtemp(prefix="ddlm-"))
    folder.chmod(0o755)
    yield filled(folder, python, bundle / f"requirements-{request.param}.txt")
    shutil.rmtree(folder)


def filled(folder, python, requirements):
    subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
    pip = [folder / "venv" / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "-r", requirements], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip can't install the requirements here: {done.stderr.strip().splitlines()[-1]}")
    return folder


def test_it_writes_the_librarys_texts(bundle, pipeline, environment):
    folder = Path(shutil.copytree(bundle, environment / "a folder with spaces, $HOME and ünï"))
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    python = environment / "venv" / "bin" / "python"
    alone = ["unshare", "--net", "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env", "-i"]
    words = [folder / "generate.py", "One day", "--seed=3", "--samples=2", "--json", "--threads=1"]
    done = subprocess.run([*alone, python, *words], capture_output=True, text=True, cwd="/", check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    sampling = SamplingConfig(**json.loads((bundle / "manifest.json").read_text())["sampling"])
    library = pipeline.generate("One day", num_samples=2, seed=3, sampling=sampling)
    assert [sample["text"] for sample in json.loads(done.stdout)["samples"]] == [one.text for one in library.samples]
    assert {path.name for path in folder.iterdir()} == {path.name for path in bundle.iterdir()} - {"__pycache__"}
    assert pwd.getpwuid(NOBODY).pw_name == "nobody"
