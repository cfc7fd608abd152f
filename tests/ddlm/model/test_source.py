"""Which folder MODEL means, where a hub is asked: a stand-in on this machine."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

from ddlm.config import UserError
from ddlm.model.source import FILES, find_folder

COMMIT = "a" * 40
PICKLE = "pytorch_model.bin"


class Hub(BaseHTTPRequestHandler):
    """One repository: its files lie in a folder. fetched: the names that were asked for with their bytes."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, fetched: list[str], *args: object) -> None:
        self.folder, self.fetched = folder, fetched
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        path = self.folder / self.path.partition("?")[0].rpartition("/")[2]
        if "/resolve/" in self.path and path.is_file():
            body, headers = path.read_bytes(), {"X-Repo-Commit": COMMIT}
            headers["ETag"] = f'"{sha1(body, usedforsecurity=False).hexdigest()}"'
            if self.command == "GET":
                self.fetched.append(path.name)
        else:
            files = [each for each in self.folder.iterdir() if each.is_file()]
            about = {"id": "some/model", "sha": COMMIT, "siblings": [{"rfilename": each.name} for each in files]}
            tree = [{"type": "file", "path": each.name, "size": each.stat().st_size, "oid": "0"} for each in files]
            body = json.dumps(tree if "/tree/" in self.path else about).encode()
            headers = {"Content-Type": "application/json"}
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def repository(tiny_model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    shutil.copytree(tiny_model, folder)
    (folder / PICKLE).write_bytes(b"a pickle")
    return folder


@pytest.fixture
def fetched(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    names: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, repository, names)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield names
        server.shutdown()
        thread.join()


def test_of_a_model_on_the_hub_ddlm_s_files_alone_are_fetched(fetched: list[str], repository: Path) -> None:
    folder = find_folder("some/model")
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert PICKLE not in fetched


def test_of_another_kind_of_model_its_config_alone_is_fetched(fetched: list[str], repository: Path) -> None:
    (repository / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="model some/model: the hub has it, but it is none of ddlm's"):
        find_folder("some/model")
    assert fetched == ["config.json"]
