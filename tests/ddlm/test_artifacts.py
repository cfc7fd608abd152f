"""The store: complete or not there, verified, built once."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddlm.artifacts import MANIFEST, ArtifactStore, DamageError, check, parents_of, seal


def write_two(output: Path, scratch: Path) -> None:
    del scratch
    (output / "a.txt").write_text("one")
    (output / "sub").mkdir()
    (output / "sub" / "b.txt").write_text("two")


def test_a_second_build_is_a_hit_and_the_digest_follows_the_bytes(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    first, built = store.build("corpus", "k1", write_two)
    again, built_again = store.build("corpus", "k1", write_two)
    other, _ = store.build("corpus", "k2", write_two)
    assert (built, built_again) == (True, False)
    assert first == again
    assert first.digest == other.digest


def test_forcing_rebuilds(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    store.build("corpus", "k", write_two)
    _, built = store.build("corpus", "k", write_two, force=True)
    assert built


@pytest.mark.parametrize("damage", ["delete", "truncate", "manifest", "no manifest"])
def test_damage_is_named_and_rebuilt(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    store = ArtifactStore(tmp_path)
    artifact, _ = store.build("corpus", "k", write_two)
    target = artifact.path / ("a.txt" if damage in ("delete", "truncate") else MANIFEST)
    if damage in ("delete", "no manifest"):
        target.unlink()
    elif damage == "truncate":
        target.write_text("o")
    else:
        target.write_text(target.read_text().replace('"bytes": 3', '"bytes": 4', 1))
    with caplog.at_level(logging.WARNING, logger="ddlm"):
        assert store.find("corpus", "k") is None
    assert target.name in caplog.text
    rebuilt, built = store.build("corpus", "k", write_two)
    assert built
    assert rebuilt.digest == artifact.digest


def test_a_flipped_byte_is_found_by_verification_alone(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    artifact, _ = store.build("corpus", "k", write_two)
    (artifact.path / "a.txt").write_text("onE")
    assert store.find("corpus", "k") == artifact
    assert store.find("corpus", "k", verify=True) is None
    with pytest.raises(DamageError, match=r"a.txt has another sha256"):
        check(artifact.path, verify=True)


def test_a_failing_build_leaves_nothing_but_its_scratch(tmp_path: Path) -> None:
    def fail(output: Path, scratch: Path) -> None:
        (output / "half").write_text("half")
        (scratch / "checkpoint").write_text("kept")
        raise RuntimeError("broke")

    store = ArtifactStore(tmp_path)
    with pytest.raises(RuntimeError, match="broke"):
        store.build("train", "k", fail)
    assert store.find("train", "k") is None
    assert not list(tmp_path.rglob("half"))
    assert (store.scratch("train", "k") / "checkpoint").read_text() == "kept"


BUILD_SLOWLY = """
import sys, time
from pathlib import Path
from ddlm.artifacts import ArtifactStore

def fill(output, scratch):
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    (output / "half.txt").write_text("half")
    time.sleep(1.0)
    (output / "whole.txt").write_text("whole")

ArtifactStore(Path(sys.argv[1])).build("shards", "k", fill)
"""


def build_slowly(root: Path, log: Path) -> subprocess.Popen[bytes]:
    """A process of its own that builds for a second; it writes a line into the log when it begins."""
    return subprocess.Popen([sys.executable, "-c", BUILD_SLOWLY, str(root), str(log)])


def test_two_processes_build_a_key_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [build_slowly(tmp_path / "store", log) for _ in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert log.read_text() == "built\n"


def test_a_killed_builder_frees_the_lock_and_its_half_is_never_used(tmp_path: Path) -> None:
    log = tmp_path / "log"
    worker = build_slowly(tmp_path / "store", log)
    while not log.exists():
        assert worker.poll() is None
        time.sleep(0.01)
    worker.kill()
    worker.wait(10)
    store = ArtifactStore(tmp_path / "store")
    assert store.find("shards", "k") is None
    artifact, built = store.build("shards", "k", write_two)
    assert built
    assert not (artifact.path / "half.txt").exists()


def test_collecting_keeps_what_is_used(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    used, _ = store.build("corpus", "used", write_two)
    store.build("corpus", "old", write_two)
    assert store.collect({used.path.resolve()}, keep_days=1) == []
    assert store.collect({used.path.resolve()}, max_bytes=10**9) == []
    removed = store.collect({used.path.resolve()})
    assert [path.name for path in removed] == ["old"]
    assert [artifact.key for artifact in store] == ["used"]


def test_the_run_record_is_in_no_digest(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    artifact, _ = store.build("corpus", "k", write_two)
    (artifact.path / "run.json").write_text(json.dumps({"host": "elsewhere"}))
    assert seal(artifact.path, "corpus") == artifact.digest


@pytest.mark.parametrize("text", ["[]", "null", "3", '{"files": []}', '{"files": {"a": 1}}', "[" * 100_000])
def test_a_manifest_that_is_json_and_no_manifest_is_damage(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(DamageError, match=r"manifest\.json"):
        check(tmp_path, verify=False)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000])
def test_a_run_record_that_can_not_be_read_costs_no_artifact(tmp_path: Path, text: str) -> None:
    store = ArtifactStore(tmp_path)
    artifact, _ = store.build("corpus", "k", write_two)
    (artifact.path / "run.json").write_text(text)
    assert parents_of(artifact.path) == {}
    assert store.build("corpus", "k", write_two, force=True)[1]
