"""`fab -r infra` against a real sshd on loopback, with keys and homes of the tests' own."""

import importlib
import os
import stat
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from fabric import Connection
from invoke import Exit

ROOT = Path(__file__).parents[2]
HEAD = subprocess.run(
    ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
).stdout.strip()

pytestmark = [pytest.mark.services, pytest.mark.slow]


def current(box):
    return (box.home / "ddlm" / "current").readlink().name


def test_a_push_brings_the_committed_tree_and_says_which(box):
    assert HEAD[:7] in box.ok("push")
    tree = box.home / "ddlm" / "current"
    assert current(box) == HEAD
    committed = subprocess.run(
        ["git", "ls-files", "infra", "configs"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = {str(path.relative_to(tree)) for folder in ("infra", "configs") for path in (tree / folder).rglob("*")}
    assert set(committed.stdout.split()) >= {path for path in found if (ROOT / path).is_file()}
    assert not (tree / ".git").exists()


def test_another_commit_is_swapped_in_and_the_rest_stays(box):
    box.ok("push")
    (box.home / "ddlm" / "outputs" / "mine").write_text("kept")
    box.ok("push", "--commit", "HEAD~1")
    assert current(box) != HEAD
    box.ok("push")
    assert current(box) == HEAD
    assert len(list((box.home / "ddlm" / "trees").iterdir())) == 2
    assert (box.home / "ddlm" / "outputs" / "mine").read_text() == "kept"


def test_an_unknown_commit_is_refused(box):
    assert "no such commit" in box.refused("push", "--commit", "--output=x")


def test_a_second_bootstrap_changes_nothing(ready):
    python = ready.home / "ddlm" / ".venv" / "bin" / "python"
    before = {path: path.lstat().st_mtime_ns for path in (ready.home / "ddlm" / ".venv").rglob("*.pth")}
    said = ready.ok("bootstrap")
    assert "installed already" in said
    assert "CPU only" in said or "NVIDIA-SMI" in said
    assert {path: path.lstat().st_mtime_ns for path in (ready.home / "ddlm" / ".venv").rglob("*.pth")} == before
    place = subprocess.run(
        [python, "-c", "import ddlm; print(ddlm.__file__)"], cwd="/", capture_output=True, text=True, check=True
    )
    assert place.stdout.startswith(str(ready.home / "ddlm" / "current"))


def test_no_python_there_is_one_line(new_box):
    other = new_box()
    said = other.refused("bootstrap", "--python", "python-that-is-not-there")
    assert "no Python 3.11 or newer" in said
    assert "python-that-is-not-there" in said


def test_a_wrong_override_is_refused_before_anything_runs(ready):
    said = ready.refused("run", "--experiment", "configs/tiny.toml", "--set", "training.stepz=2")
    assert "unknown key training.stepz" in said


def test_a_path_with_spaces_and_a_dollar_is_fetched(box):
    path = box.home / "ddlm" / "outputs" / "it's $(x) a" / "f"
    path.parent.mkdir(parents=True)
    path.write_text("there")
    box.ok("fetch", "outputs/it's $(x) a/f")
    results = box.folder / "here" / "fetched" / "127.0.0.1"
    assert [found.read_text() for found in results.glob("*/f")] == ["there"]
    assert [each.name for each in (box.folder / "here").iterdir()] == ["fetched"]


def test_a_fetch_that_fails_leaves_no_folder_behind(box):
    box.ok("push")
    results = box.folder / "here" / "fetched" / "127.0.0.1"
    before = set(results.glob("*"))
    assert "no such file in ~/ddlm" in box.refused("fetch", "outputs/nothing")
    assert set(results.glob("*")) == before


@pytest.mark.parametrize("name", ["../outside", "link"])
def test_an_archive_that_leaves_its_folder_is_refused(box, name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "infra")
    boxes, remote = importlib.import_module("boxes"), importlib.import_module("remote")
    monkeypatch.setenv("HOME", str(box.folder))
    member = tarfile.TarInfo(name)
    if name == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        archive.addfile(member)
    connection = Connection("127.0.0.1", port=box.port, connect_kwargs={"key_filename": [str(box.folder / "key")]})
    with connection:
        boxes.connect(connection)
        with pytest.raises(Exit, match="can't be unpacked"):
            remote.unpack(connection, tmp_path / "here", 'cat "$1"', str(tmp_path / "evil.tar.gz"))
    assert not [*tmp_path.rglob("outside"), *tmp_path.rglob("link")]


def test_an_env_file_is_secret_on_its_way_and_there(box, tmp_path):
    secret = "HF_TOKEN=" + "s3cret" * 4
    (tmp_path / "its env").write_text(secret + "\n")
    seen = []
    is_over = threading.Event()

    def watch():
        while not is_over.is_set():
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.append(file.read_bytes())
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    said = box.fab("sync-env", str(tmp_path / "its env"))
    is_over.set()
    watcher.join()
    assert said.returncode == 0
    assert any(b"sync-env" in line for line in seen)
    assert not any(b"s3cret" in line for line in seen)
    assert "s3cret" not in said.stdout + said.stderr + (box.folder / "sshd.log").read_text()
    (env,) = (box.home / "ddlm").glob(".env*")
    assert env.read_text() == secret + "\n"
    assert stat.S_IMODE(env.stat().st_mode) == 0o600


def test_a_missing_env_is_one_line_here_and_there(new_box):
    other = new_box()
    assert "no such file" in other.refused("sync-env", "not there")
    assert "PREFECT_API_URL" in other.refused("worker-start")
    assert "no worker is running" in other.refused("worker-status")
    assert "no run was ever started" in other.refused("attach")


def test_an_env_that_sh_can_not_read_is_named(new_box):
    other = new_box()
    (other.home / "ddlm").mkdir()
    (other.home / "ddlm" / ".env").write_text("PREFECT_API_URL='http://127.0.0.1:1/api\n")
    assert "sh can't read ~/ddlm/.env" in other.refused("worker-start")
    assert "sh can't read ~/ddlm/.env" in other.refused("worker-status")
    assert ".env: sh can't read it" in other.fab("doctor").stdout


def test_a_worker_that_crashes_over_and_over_is_not_called_running(new_box):
    other = new_box()
    other.ok("push")
    (other.home / "ddlm" / ".env").write_text("PREFECT_API_URL=http://127.0.0.1:1/api\n")
    python = other.home / "ddlm" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    assert "has crashed 1 times, the last with exit code 3" in other.refused("worker-start")
    assert "has crashed" in other.refused("worker-status")
    assert "worker: has crashed" in other.fab("doctor").stdout
    other.ok("worker-stop")


def test_the_doctor_names_what_is_missing(new_box, ready):
    other = new_box()
    done = other.fab("doctor")
    assert done.returncode == 1
    assert {line.partition(":")[0] for line in done.stdout.splitlines()} >= {"venv", "tree", ".env", "worker"}
    (ready.home / "ddlm" / ".env").write_text("PREFECT_API_URL=http://127.0.0.1:1/api\n")
    (ready.home / "ddlm" / ".env").chmod(0o644)
    found = ready.fab("doctor").stdout.splitlines()
    assert {line.partition(":")[0] for line in found} - {"disk", "cuda"} == {".env", "worker"}
    assert any("chmod 600" in line for line in found)


def test_a_box_that_does_not_answer_is_one_line(box):
    away = type(box)(box.folder, box.home)
    assert "no connection" in away.refused("gpu")


def test_a_key_that_the_box_does_not_take_is_one_line(box):
    assert "takes none of your keys" in box.refused("gpu", key=box.new_key("another key"))
    assert "no such key file" in box.refused("gpu", key=box.folder / "no key here")


def test_only_a_box_whose_host_key_is_known_is_trusted(new_box):
    other = new_box()
    known = other.folder / ".ssh" / "known_hosts"
    known.write_text("")
    said = other.refused("push")
    assert "unknown host" in said
    assert f"ssh-keyscan -p {other.port} 127.0.0.1 >> ~/.ssh/known_hosts" in said
    assert known.read_text() == ""
    other.trust()
    other.stop()
    other.new_key("host_key")
    other.start()
    said = other.refused("push")
    assert "host key has changed" in said
    assert f"ssh-keygen -R '[127.0.0.1]:{other.port}'" in said
    assert list(other.home.iterdir()) == []
    other.trust()
    other.ok("gpu")


def test_an_unknown_role_is_one_line(box):
    command = [sys.executable, "-m", "fabric", "-r", "infra", "gpu", "--role", "nobody"]
    done = subprocess.run(command, cwd=ROOT, env=box.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("--role")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_one_line_and_leaves_what_was_there(new_box, tmp_path):
    small = tmp_path / "small disk"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=755", "ddlm-test", small], check=True)
    try:
        other = new_box(small)
        said = other.refused("push")
        assert "the disk is full there" in said
        assert list((small / "ddlm" / "trees").iterdir()) == []
        (small / "filler").write_bytes(bytes(200_000))
        (tmp_path / "env").write_text("X=" + "x" * 200_000)
        assert ".env can't be written" in other.refused("sync-env", str(tmp_path / "env"))
        assert not list((small / "ddlm").glob(".env*"))
    finally:
        subprocess.run(["umount", small], check=True)
