"""The page's server: what it serves and what it does not."""

import re
import signal

import httpx
import pytest

from ddlm.diffusion import SamplingConfig
from ddlm.rendering.fonts import FOLDERS, SERIF
from tests.ddlm.ui.serving import serving

pytestmark = pytest.mark.services
PATIENCE_S = 60


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.address, timeout=PATIENCE_S, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def config(client):
    return client.get("/config").json()


def test_the_page_asks_nobody_else_for_anything(client):
    page = client.get("/").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page) + re.findall(r"url\(([^)]+)\)", page)
    assert len(loaded) >= 3
    assert [each for each in loaded if re.match(r"(https?:)?//", each)] == []
    assert "fonts.googleapis.com" not in page + client.get("/theme.css").text


def test_every_answer_forbids_the_browser_to_ask_elsewhere(client):
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload", "/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/gradio_api/proxy=http://localhost",
        "/monitoring", "/gradio_api/vibe-edit", "/gradio_api/process_recording", "/docs", "/openapi.json",
        "/gradio_api/openapi.json", "/gradio_api/component_server", "/gradio_api/deep_link", "/gradio_api/call/write",
        "/login", "/gradio_api/stream/x", "/gradio_api/runs",
    ],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(client, path):
    assert client.get(path).status_code == 404
    assert client.post(path, content=b"{}").status_code == 404


@pytest.mark.parametrize(
    "path", ["/static/../../../etc/passwd", "/assets/%2e%2e/%2e%2e/index.html", "/static//etc/passwd"]
)
def test_no_path_leads_out_of_gradios_own_files(client, path):
    assert client.get(path).status_code in (400, 403, 404)


def test_large_requests_are_refused(client):
    assert client.post("/gradio_api/queue/join", content=b"x" * 300_000).status_code == 413
    chunks = (b"x" * 1000 for _ in range(3))
    assert client.post("/gradio_api/queue/join", content=chunks).status_code == 413


def test_the_typeface_of_the_films_comes_from_here(client):
    assert client.get("/typeface.otf").content == (FOLDERS[0] / SERIF).read_bytes()


@pytest.mark.parametrize("path", ["/film/x/0.gif", "/film/../0.gif", "/film/x/passwd", "/film/x/-1.gif"])
def test_a_film_that_is_not_there_is_not_found(client, path):
    assert client.get(path).status_code in (404, 422)


def test_every_key_of_sampling_is_a_control_with_a_sentence(client, config):
    shown = {each["props"].get("elem_id"): each["props"] for each in config["components"]}
    for name in SamplingConfig.model_fields:
        assert shown[f"control-{name}"]["info"].endswith("."), name
        assert shown[f"control-{name}"]["label"], name


def test_no_event_is_offered_to_programs(client):
    assert client.get("/gradio_api/info").json()["named_endpoints"] == {}


def test_nothing_is_sent_to_gradio(config):
    assert config["analytics_enabled"] is False


def test_ctrl_c_ends_it_soon_though_a_browser_is_connected(home_of_two, tmp_path):
    with serving(home_of_two, tmp_path, "--port", "0") as server:
        alive = httpx.stream("GET", f"{server.address}/gradio_api/heartbeat/visitor", trust_env=False)
        with alive as stream:
            assert next(stream.iter_lines()).startswith("data")
            assert server.end(signal.SIGINT) == 0


def test_it_says_nothing_but_its_address(server):
    assert server.log.read_text() == ""


def test_it_talks_to_nobody(server, client):
    client.get("/")
    assert server.heard.exists()
    assert server.strangers() == set()
