"""A proxy for the web is not asked for what is on this machine."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ddlm.config import UserError
from ddlm.loopback import EXEMPT, HERE, PROXIES, require_no_unusable_proxy, spare_loopback


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *map(str.upper, PROXIES), *EXEMPT):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def address() -> Iterator[str]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"here")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("proxy", [*PROXIES, *map(str.upper, PROXIES)])
def test_every_client_reaches_this_machine_behind_any_proxy(address: str, proxy: str) -> None:
    program = f"""
from ddlm.loopback import spare_loopback
spare_loopback()
import httpx, requests, urllib.request
assert httpx.get("{address}", timeout=5).text == "here"
assert requests.get("{address}", timeout=5).text == "here"
assert urllib.request.urlopen("{address}", timeout=5).read() == b"here"
"""
    environment = os.environ | {proxy: "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_user_exempts_stays_exempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "example.org, .local")
    spare_loopback()
    spare_loopback()
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == ",".join(["example.org", ".local", *HERE])


def test_without_a_proxy_nothing_is_set() -> None:
    spare_loopback()
    assert not set(EXEMPT) & set(os.environ)


def test_a_socks_proxy_that_no_client_can_be_made_for_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddlm.loopback.find_spec", lambda _: None)
    require_no_unusable_proxy()
    monkeypatch.setenv("all_proxy", "socks5h://127.0.0.1:1080")
    with pytest.raises(UserError, match=r"all_proxy names a SOCKS proxy, .* pip install socksio, or unset all_proxy"):
        require_no_unusable_proxy()
    monkeypatch.setattr("ddlm.loopback.find_spec", str)
    require_no_unusable_proxy()
