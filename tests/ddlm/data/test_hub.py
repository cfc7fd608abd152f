"""The hub client against a small hub of our own, on the real protocol."""

import io
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pytest
from pyarrow import parquet

import ddlm.data.hub
from ddlm.artifacts import Unlogged, Workspace
from ddlm.config import Unreachable, UserError
from ddlm.data import CorpusConfig
from ddlm.data.corpus import build, resolve
from ddlm.data.hub import OFFLINE_SWITCHES, held_out_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
INFO = {"id": "them/stories", "sha": COMMIT, "private": False, "tags": [], "downloads": 0}


def table(texts: list[str]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"text": texts}), buffer)
    return buffer.getvalue()


FILES = {
    "data/train-00000-of-00001.parquet": table([f"Story {number}." for number in range(50)]),
    "data/validation-00000-of-00001.parquet": table([f"Story {number}." for number in range(45, 60)]),
}


class Hub(BaseHTTPRequestHandler):
    """Serves one dataset; `answer` replaces its information by something else."""

    protocol_version = "HTTP/1.1"
    answer: Callable[["Hub"], None] | None = None

    def log_message(self, *_: Any) -> None:
        pass

    def send(self, code: int, body: Any, **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(raw)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        head, _, rest = path.removeprefix("/api").removeprefix("/datasets/them/stories").strip("/").partition("/")
        if path.startswith("/api/datasets/them/stories") and head in ("", "revision"):
            self.answer() if self.answer else self.send(200, {**INFO, "siblings": [{"rfilename": n} for n in FILES]})
        elif head == "tree" and "/" in rest:
            self.send(200, [{"type": "file", "path": n, "size": len(FILES[n]), "oid": "0" * 40} for n in FILES])
        elif head == "tree":
            self.send(200, [{"type": "directory", "path": "data", "size": 0, "oid": "0" * 40}])
        elif head == "resolve" and (name := rest.partition("/")[2]) in FILES:
            self.send_part(FILES[name])
        else:
            self.send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")

    def send_part(self, content: bytes) -> None:
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last or len(content) - 1) + 1]
        end = int(first) + len(part) - 1
        self.send(206, part, ETag='"e"', X_Repo_Commit=COMMIT, Content_Range=f"bytes {first}-{end}/{len(content)}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A running hub that HF_ENDPOINT points to; set its `answer` to break it."""

    class Ours(Hub):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Ours)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for switch in OFFLINE_SWITCHES:
        monkeypatch.delenv(switch, raising=False)
    yield Ours
    server.shutdown()
    server.server_close()
    thread.join()


def config(**given: Any) -> CorpusConfig:
    return CorpusConfig(source="them/stories", **{"hub_timeout_s": 5.0, **given})


STREAM = """
import json, sys
from pathlib import Path
from ddlm.artifacts import Workspace
from ddlm.data import CorpusConfig
from ddlm.data.corpus import build, resolve
corpus = CorpusConfig.model_validate_json(sys.argv[1])
build(Workspace({}, Path(sys.argv[2]), Path(sys.argv[2]), None), corpus=corpus, source=resolve(corpus))
"""


def stream(corpus: CorpusConfig, output: Path) -> subprocess.CompletedProcess[str]:
    """Builds in a process of its own: `datasets` reads HF_ENDPOINT once, when it is imported."""
    output.mkdir()
    command = [sys.executable, "-W", "error", "-c", STREAM, corpus.model_dump_json(), str(output)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.usefixtures("hub")
def test_the_first_rows_are_streamed_from_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    done = stream(config(train_split="train[:20]", validation_split="validation[:3]"), tmp_path / "corpus")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "corpus/report.json").read_text())
    assert report["source"] == {"kind": "hub", "dataset": "them/stories"}
    assert report["stories"] == {"train": 20, "validation": 3}
    assert {name: read["rows"] for name, read in report["read"].items()} == {"train": 20, "validation": 3}


@pytest.mark.parametrize(
    ("splits", "held_out"),
    [
        (["validation", "valid"], "validation"),
        (["test", "valid"], "valid"),
        (["extra", "test"], "test"),
        (["extra"], None),
    ],
)
def test_a_split_whose_name_says_so_validates(splits: list[str], held_out: str | None) -> None:
    assert held_out_of(splits, "validation") == held_out


@pytest.mark.usefixtures("hub")
def test_a_column_that_the_dataset_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    done = stream(config(text_field="story"), tmp_path / "corpus")
    assert "UserError: corpus.source them/stories: no column 'story'; it has text; set corpus.text_field" in done.stderr


@pytest.mark.usefixtures("hub")
def test_the_key_holds_the_commit() -> None:
    assert resolve(config()) == {"kind": "hub", "dataset": "them/stories", "commit": COMMIT}


def test_a_full_commit_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve(config(revision=COMMIT))["commit"] == COMMIT


def test_a_full_commit_may_still_fall_back_to_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve(config(revision=COMMIT, offline="sample"))["kind"] == "sample"


@pytest.mark.parametrize("switch", OFFLINE_SWITCHES)
def test_an_offline_switch_means_no_call_at_all(monkeypatch: pytest.MonkeyPatch, hub: type[Hub], switch: str) -> None:
    asked = []
    hub.answer = lambda self: asked.append(self.path)
    monkeypatch.setenv(switch, "1")
    with pytest.raises(UserError, match=rf"the hub can't be reached \({switch} is set\)"):
        resolve(config())
    assert not asked


def test_a_silent_hub_is_given_up_in_time(hub: type[Hub]) -> None:
    hub.answer = lambda self: time.sleep(2)
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"the hub can't be reached"):
        resolve(config(hub_timeout_s=0.5))
    assert time.monotonic() - started < 1.5


def test_a_trickling_hub_is_given_up_in_time(hub: type[Hub]) -> None:
    def trickle(self: Hub) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(20):
            self.wfile.write(b" ")
            time.sleep(0.1)

    hub.answer = trickle
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"the hub can't be reached \(no answer in 0.5 s\)"):
        resolve(config(hub_timeout_s=0.5))
    assert time.monotonic() - started < 1.5


def test_an_unreachable_hub_names_the_local_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match=r'a local file or folder, corpus\.source="sample", or') as fault:
        resolve(config())
    assert "\n" not in str(fault.value)


def test_an_unreachable_hub_falls_back_to_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert resolve(config(offline="sample")) == resolve(CorpusConfig(source="sample"))


def test_stories_built_from_the_sample_instead_are_loud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not so when they are cached: nothing is trained on then."""
    sample = CorpusConfig(source="sample")
    for corpus in (config(), sample):
        build(Workspace({}, tmp_path, tmp_path, Unlogged()), corpus=corpus, source=resolve(sample))
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "THE HUB CAN'T BE REACHED" in record.message


def test_a_login_page_is_no_hub(hub: type[Hub]) -> None:
    hub.answer = lambda self: self.send(200, b"<html>log in first</html>")
    with pytest.raises(Unreachable, match="the hub can't be reached"):
        resolve(config())


def test_a_broken_hub_is_unreachable(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    """The world's fault: whoever retries what the world breaks, retries this."""
    monkeypatch.setattr(ddlm.data.hub, "PAUSES_S", (0.01,))
    hub.answer = lambda self: self.send(503, {"error": "down"})
    with pytest.raises(Unreachable, match="the hub can't be reached") as fault:
        resolve(config())
    assert not isinstance(fault.value, ValueError)


@pytest.mark.parametrize("code", [429, 503])
def test_a_hub_that_is_busy_for_a_moment_is_asked_again(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(ddlm.data.hub, "PAUSES_S", (0.01, 0.01, 0.01))
    refusals = [code, code]

    def answer(self: Hub) -> None:
        status = refusals.pop() if refusals else 200
        self.send(status, INFO if status == 200 else {"error": "busy"})

    hub.answer = answer
    assert resolve(config())["commit"] == COMMIT
    assert not refusals


@pytest.mark.parametrize(("code", "error"), [(404, "RepoNotFound"), (403, "GatedRepo"), (404, "RevisionNotFound")])
def test_a_dataset_that_the_hub_refuses_is_the_users_mistake(hub: type[Hub], code: int, error: str) -> None:
    hub.answer = lambda self: self.send(code, {"error": error}, X_Error_Code=error)
    with pytest.raises(UserError, match=r"the hub does not give it .* corpus\.revision, or set HF_TOKEN"):
        resolve(config(offline="sample"))


def test_a_malformed_id_is_refused_without_a_call() -> None:
    with pytest.raises(UserError, match="the hub does not give it"):
        resolve(CorpusConfig(source="them/.stories..", offline="sample"))
