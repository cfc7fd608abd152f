"""The store that machines share, on a real S3 server: a machine is a process or a store with a folder of its own."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Thread, current_thread
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from ddlm.artifacts import (
    MANIFEST,
    ArtifactStore,
    Leases,
    Remote,
    StoreUnavailable,
    collect_shared,
    digest_of,
    open_store,
    seal,
)
from ddlm.cli import app
from ddlm.config import UserError
from ddlm.experiment.stages import STAGES

pytest.importorskip("s3fs", reason="the extra s3 is not installed")
pytest.importorskip("moto", reason="moto, the S3 server of these tests, is not installed")

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "tiny.toml"
ALL_CACHED = dict.fromkeys(STAGES, "cached")
BUILD = """
import sys, time
from pathlib import Path
from ddlm.artifacts import ArtifactStore, Leases, Remote, seal

root, url, log, seconds = sys.argv[1:]

def fill(output, scratch):
    kept = sorted(path.name for path in scratch.iterdir())
    step = scratch / f"step-{len(kept):08d}"
    step.mkdir()
    (step / "state.txt").write_text("state")
    seal(step, "checkpoint")
    (scratch / "best.json").write_text("{}")
    with open(log, "a") as file:
        file.write(f"built with {kept}\\n")
    (output / "half.txt").write_text("half")
    time.sleep(float(seconds))
    (output / "whole.txt").write_text("whole")

remote = Remote(url)
store = ArtifactStore(Path(root), remote, Leases(remote, beat_s=0.3, expiry_s=4.0, poll_s=0.1))
print(store.build("train", "k", fill))
"""
RESUME = """
import sys
from pathlib import Path
from ddlm.artifacts import ArtifactStore, Leases, Remote
from ddlm.cli import logging_to_stderr
from ddlm.config import parse_override
from ddlm.experiment import load_experiment
from ddlm.experiment.stages import Session, run_plainly

config, root, url, *settings = sys.argv[1:]
remote = Remote(url)
store = ArtifactStore(Path(root), remote, Leases(remote, expiry_s=3.0, poll_s=0.1))
overrides = {"tracking.backend": "none", **dict(map(parse_override, settings))}
with logging_to_stderr():
    print(run_plainly(Session(load_experiment(config, overrides), store=store), "train")["train"].digest)
"""
LONG = ["training.steps=500", "training.save_every_steps=50", "training.validate_every_steps=250"]
"""A training that lasts seconds, so that it can be killed on its way."""


@pytest.fixture(scope="module")
def s3() -> Iterator[None]:
    """An S3 server on a loopback port, and an environment that leads to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "tester")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "of-nothing")
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                _wait_until(lambda: _answers(address), 120)
                yield
            finally:
                process.terminate()


@pytest.fixture
def bucket(s3: None) -> str:
    """A new bucket."""
    name = f"test-{uuid4().hex}"
    objects().mkdir(name)
    return name


@pytest.fixture
def url(bucket: str) -> str:
    return f"s3://{bucket}/ddlm"


@pytest.fixture
def machine(url: str, tmp_path: Path) -> Callable[[str], ArtifactStore]:
    """A store of a machine of this name."""
    return lambda name: ArtifactStore(tmp_path / name, Remote(url))


def objects() -> fsspec.AbstractFileSystem:
    return fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)


def _answers(address: str) -> bool:
    try:
        urlopen(address, timeout=5).close()
    except HTTPError:  # an answer all the same
        return True
    except OSError:
        return False
    return True


def _wait_until(holds: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def write_two(output: Path, scratch: Path) -> None:
    del scratch
    (output / "a.txt").write_text("one")
    (output / "sub").mkdir()
    (output / "sub" / "b.txt").write_text("two")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def builder(root: Path, url: str, log: Path, seconds: float) -> subprocess.Popen[str]:
    """A machine's process that builds for some seconds; it writes into the log when it begins."""
    command = [sys.executable, "-c", BUILD, str(root), url, str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@contextmanager
def no_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        yield


def test_what_one_machine_built_another_has_byte_for_byte(machine: Callable[[str], ArtifactStore]) -> None:
    here, there = machine("a"), machine("b")
    made, built = here.build("corpus", "k", write_two)
    found, built_again = there.build("corpus", "k", write_two)
    assert (built, built_again) == (True, False)
    assert made.digest == found.digest
    assert contents(made.path) == contents(found.path)
    assert not list(there.root.glob(".tmp/*"))


def test_what_is_here_needs_no_server(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = ArtifactStore(tmp_path, Remote(url)).build("corpus", "k", write_two)
    with no_server(monkeypatch):
        store = ArtifactStore(tmp_path, Remote(url))
        assert store.find("corpus", "k") == made
        assert not caplog.text
        with pytest.raises(StoreUnavailable, match=rf"^{url} can't be reached: [^\n]+$"):
            store.find("corpus", "elsewhere")


def test_what_was_built_alone_is_shared_when_it_is_next_found(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = ArtifactStore(tmp_path / "a").build("corpus", "k", write_two)
    with no_server(monkeypatch), caplog.at_level(logging.WARNING, logger="ddlm"):
        assert ArtifactStore(tmp_path / "a", Remote(url)).find("corpus", "k") == made
    assert "not shared now" in caplog.text
    assert ArtifactStore(tmp_path / "b", Remote(url)).find("corpus", "k") is None
    assert ArtifactStore(tmp_path / "a", Remote(url)).find("corpus", "k") == made
    assert ArtifactStore(tmp_path / "b", Remote(url)).find("corpus", "k")


def test_an_upload_that_fails_loses_nothing(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(tmp_path / "a", Remote(url))

    def lose_the_bucket(output: Path, scratch: Path) -> None:
        write_two(output, scratch)
        objects().rm(url.removesuffix("/ddlm"), recursive=True)

    with caplog.at_level(logging.WARNING, logger="ddlm"):
        made, built = store.build("corpus", "k", lose_the_bucket)
    assert built
    assert "corpus/k is kept here alone" in caplog.text
    objects().mkdir(url.removesuffix("/ddlm"))
    assert store.find("corpus", "k") == made
    assert ArtifactStore(tmp_path / "b", Remote(url)).find("corpus", "k")


@pytest.mark.parametrize(("name", "damage"), [("b.txt", "flip"), ("a.txt", "delete"), (MANIFEST, "flip")])
def test_a_damaged_object_is_named_and_rebuilt(
    machine: Callable[[str], ArtifactStore], url: str, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    made, _ = machine("a").build("corpus", "k", write_two)
    (path,) = (path for path in objects().find(url) if path.endswith(f"/{name}"))
    if damage == "delete":
        objects().rm_file(path)
    else:
        objects().pipe_file(
            path, objects().cat_file(path).replace(b"two", b"twO").replace(b'"bytes": 3', b'"bytes": 4')
        )
    with caplog.at_level(logging.WARNING, logger="ddlm"):
        assert machine("b").find("corpus", "k") is None
    assert re.search(rf"artifact corpus/k is damaged: {url}/corpus/k/\S*{name} ", caplog.text)
    rebuilt, built = machine("b").build("corpus", "k", write_two)
    assert built
    assert rebuilt.digest == made.digest
    assert machine("c").find("corpus", "k", verify=True)


def test_a_manifest_leads_to_no_file_outside_its_folder(
    machine: Callable[[str], ArtifactStore], url: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"stage": "corpus", "files": {"../../../evil": {"bytes": 1, "sha256": ""}}, "digest": "d" * 64}
    objects().pipe_file(f"{url}/corpus/k/{MANIFEST}", json.dumps({**body, "checksum": digest_of(body)}).encode())
    with caplog.at_level(logging.WARNING, logger="ddlm"):
        assert machine("a").find("corpus", "k") is None
    assert "outside its folder" in caplog.text


def test_a_damaged_file_here_is_taken_from_the_store(machine: Callable[[str], ArtifactStore]) -> None:
    made, _ = machine("a").build("corpus", "k", write_two)
    (made.path / "a.txt").write_text("onE")
    _, built = machine("a").build("corpus", "k", write_two, verify=True)
    assert not built
    assert (made.path / "a.txt").read_text() == "one"


def test_a_forced_build_replaces_what_the_store_has(machine: Callable[[str], ArtifactStore]) -> None:
    machine("a").build("corpus", "k", write_two)
    other, built = machine("b").build("corpus", "k", lambda output, _: (output / "c").write_text("c"), force=True)
    assert built
    found = machine("c").find("corpus", "k")
    assert found
    assert found.digest == other.digest


def test_two_machines_that_want_a_key_at_once_build_it_once(url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [builder(tmp_path / name, url, log, seconds=1.0) for name in "ab"]
    outputs = [worker.communicate(timeout=60)[0] for worker in workers]
    assert sorted(output.rstrip().endswith("True)") for output in outputs) == [False, True]
    assert log.read_text() == "built with []\n"
    assert contents(tmp_path / "a" / "train" / "k") == contents(tmp_path / "b" / "train" / "k")
    assert not objects().find(f"{url}/.leases")
    assert not objects().find(f"{url}/.scratch")


@pytest.mark.services
def test_a_builder_killed_with_kill_9_leaves_its_lease_and_its_checkpoints_to_another_machine(
    url: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    first = builder(tmp_path / "a", url, log, seconds=300)
    _wait_until(lambda: objects().exists(f"{url}/.scratch/train-k/best.json"))
    second = builder(tmp_path / "b", url, log, seconds=0)
    time.sleep(9)  # twice as long as a silent lease lives
    assert second.poll() is None, "the living holder was overrun"
    first.kill()
    first.communicate()
    assert ArtifactStore(tmp_path / "c", Remote(url)).find("train", "k") is None
    output, _ = second.communicate(timeout=60)
    assert output.rstrip().endswith("True)")
    assert log.read_text() == "built with []\nbuilt with ['best.json', 'step-00000000']\n"
    assert not objects().find(f"{url}/.leases")
    assert not objects().find(f"{url}/.scratch")


def test_a_build_that_is_told_to_stop_leaves_its_last_checkpoint_to_another_machine(
    machine: Callable[[str], ArtifactStore],
) -> None:
    def save_and_stop(output: Path, scratch: Path) -> None:
        (scratch / "step-00000007").mkdir()
        (scratch / "step-00000007" / "state.txt").write_text("state")
        seal(scratch / "step-00000007", "checkpoint")
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        machine("a").build("train", "k", save_and_stop)
    kept: list[str] = []
    machine("b").build("train", "k", lambda _, scratch: kept.extend(path.name for path in scratch.iterdir()))
    assert kept == ["step-00000007"]


def test_a_damaged_checkpoint_of_another_machine_is_named_and_not_used(
    machine: Callable[[str], ArtifactStore], url: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"stage": "checkpoint", "files": {"state.txt": {"bytes": 5, "sha256": ""}}, "digest": "d" * 64}
    manifest = json.dumps({**body, "checksum": digest_of(body)}).encode()
    objects().pipe_file(f"{url}/.scratch/train-k/step-00000009/{MANIFEST}", manifest)
    with caplog.at_level(logging.WARNING, logger="ddlm"):
        machine("a").build("train", "k", lambda output, _: (output / "file").touch())
    assert "checkpoint step-00000009 is damaged" in caplog.text
    assert not list(machine("a").root.glob(".scratch/train-k/step-*"))


def test_the_list_shows_both_stores_and_gc_tidies_this_machine_alone(
    machine: Callable[[str], ArtifactStore], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("a").build("corpus", "there", write_two)
    monkeypatch.setenv("DDLM_STORE", url)
    open_store().build("corpus", "here", write_two)
    listed = CliRunner().invoke(app, ["artifacts", "list"]).output
    assert re.search(r"corpus +here +0.00 MB *$", listed, re.MULTILINE)
    assert re.search(rf"corpus +there +0.00 MB in {url}$", listed, re.MULTILINE)
    assert f"removed 1; {url} was left as it is" in CliRunner().invoke(app, ["artifacts", "gc"]).output
    assert open_store().find("corpus", "here")


def test_a_shared_store_is_tidied_where_that_is_asked_for_with_a_limit(
    machine: Callable[[str], ArtifactStore], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("first", "second", "third"):
        machine("a").build("corpus", key, write_two)
        time.sleep(1.1)  # the store's clock counts seconds
    remote = Remote(url)
    for step in ("step-1", "step-2"):
        remote.write(f".scratch/train-dead/{step}/{MANIFEST}", b"{}")
    sizes = remote.artifacts()
    kept = sizes["corpus", "first"] + sizes["corpus", "third"]
    used = {("corpus", "first")}
    assert collect_shared(remote, used, keep_days=1, max_bytes=None) == []
    assert collect_shared(remote, used, keep_days=None, max_bytes=kept) == ["corpus/second"]
    assert {key for _, key in remote.artifacts()} == {"first", "third"}
    monkeypatch.setenv("DDLM_STORE", url)
    unlimited = CliRunner().invoke(app, ["artifacts", "gc", "--shared"])
    assert isinstance(unlimited.exception, UserError)
    assert "wanted DDLM_STORE, a store behind a URL, and --keep-days or --max-bytes" in str(unlimited.exception)
    said = CliRunner().invoke(app, ["artifacts", "gc", "--shared", "--keep-days", "0"]).output
    assert said.splitlines() == ["corpus/first", "corpus/third", ".scratch/train-dead", f"removed 3 from {url}"]
    assert remote.sizes() == {}


class Forgetful(MemoryFileSystem):  # type: ignore[misc]
    """A store that ignores the condition of a conditional write, as older servers do, and is slow for some."""

    protocol = "forgetful"
    store: dict[str, object] = {}
    pseudo_dirs = [""]
    both_have_looked = Barrier(2)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: object) -> None:
        if mode == "create":
            with suppress(BrokenBarrierError):
                self.both_have_looked.wait(1)
            time.sleep(0.4 * (current_thread().name == "slow"))
        super().pipe_file(path, value, mode="overwrite", **options)


def test_one_of_two_gets_the_lease_of_a_store_that_overwrites() -> None:
    fsspec.register_implementation("forgetful", Forgetful, clobber=True)
    leases = Leases(Remote("forgetful://root"), beat_s=10, expiry_s=30, poll_s=0.1)
    inside: list[str] = []

    def hold() -> None:
        with leases.held("train-k"):
            inside.append(current_thread().name)
            time.sleep(2)
            inside.append(current_thread().name)

    threads = [Thread(target=hold, name=name) for name in ("quick", "slow")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert inside in (["slow", "slow", "quick", "quick"], ["quick", "quick", "slow", "slow"])


def test_a_missing_bucket_is_one_line_before_anything_is_built(s3: None, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, Remote("s3://no-such-bucket/ddlm"))
    with pytest.raises(UserError, match=r"s3://no-such-bucket/ddlm: not there .*create the bucket"):
        store.build("corpus", "k", lambda output, scratch: pytest.fail("was built"))


def test_without_s3fs_one_line_says_what_to_install() -> None:
    program = "import sys; sys.modules['s3fs'] = None; from ddlm.artifacts import Remote; Remote('s3://bucket')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "UserError: DDLM_STORE s3://bucket: its package is missing; run " in done.stderr


def test_an_unknown_kind_of_store_is_one_line() -> None:
    with pytest.raises(UserError, match=r"DDLM_STORE nfs5://disk: .*give s3://bucket/prefix or a folder"):
        Remote("nfs5://disk")


@pytest.mark.parametrize("prefix", ["", "file:", "file://"])
def test_a_folder_that_all_machines_see_is_the_store_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setenv("DDLM_STORE", f"{prefix}{tmp_path / 'disk'}")
    assert open_store().root == tmp_path / "disk"
    assert open_store().remote is None


def run(home: Path, url: str, *arguments: str) -> subprocess.Popen[str]:
    """`ddlm run` on a machine of its own."""
    command = [sys.executable, "-c", "from ddlm.cli import main; main()"]
    arguments = ("run", str(TINY), "--no-prefect", "--set", "tracking.backend=none", *arguments)
    environment = {**os.environ, "DDLM_HOME": str(home), "DDLM_STORE": url, "COLUMNS": "200"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, *arguments], cwd=ROOT, env=environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def finish(process: subprocess.Popen[str]) -> dict[str, str]:
    """What became of each stage."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return dict(re.findall(r"(\w+) (built|cached)", out))


@pytest.mark.services
def test_a_pipeline_built_on_one_machine_is_all_cached_on_another(url: str, tmp_path: Path) -> None:
    assert finish(run(tmp_path / "a", url)) == dict.fromkeys(STAGES, "built")
    assert finish(run(tmp_path / "b", url)) == ALL_CACHED
    for stage in STAGES:
        assert contents(tmp_path / "a" / "artifacts" / stage) == contents(tmp_path / "b" / "artifacts" / stage)


@pytest.mark.services
@pytest.mark.timeout(600)
def test_a_training_killed_on_one_machine_ends_on_another_as_if_it_had_not_been(url: str, tmp_path: Path) -> None:
    wanted = ("--until", "train", *(word for setting in LONG for word in ("--set", setting)))
    first = run(tmp_path / "a", url, *wanted)
    _wait_until(lambda: objects().glob(f"{url}/.scratch/train-*/step-*/{MANIFEST}"), 120)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    command = [sys.executable, "-c", RESUME, str(TINY), str(tmp_path / "b"), url, *LONG]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=True)
    assert re.search(r"going on from step-\d+ of another machine", second.stderr)
    finish(run(tmp_path / "alone", "", *wanted))
    (whole,) = tmp_path.glob(f"alone/artifacts/train/*/{MANIFEST}")
    assert second.stdout.strip() == json.loads(whole.read_text())["digest"]
