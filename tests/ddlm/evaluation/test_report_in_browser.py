"""The report in a headless Chromium: it is whole, asks nobody for anything, and fits narrow and wide windows."""

import base64
import io
import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from itertools import count

import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import connect

from ddlm.artifacts import ArtifactStore
from ddlm.experiment.stages import Session, run_plainly

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(CHROMIUM is None, reason="no browser: needs chromium, Debian's package of that name"),
]
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip
PATIENCE_S = 60
NARROW, WIDE = 400, 1200
BAND = 800
UNLOADED = "[...document.images].filter(image => !(image.complete && image.naturalWidth > 0)).length"
OVERFLOW = "Math.max(0, document.documentElement.scrollWidth - innerWidth)"
MEANINGS = "[...document.querySelectorAll('tr.score')].map(row => row.querySelector('.meaning')?.textContent ?? '')"


class Page:
    """One page of a browser, by the DevTools protocol.

    requests: addresses that it asked for, its own first. errors: what stands as an error on its console, what it threw,
    and what failed to load.
    """

    def __init__(self, socket):
        self.socket, self.numbers, self.session = socket, count(1), {}
        self.requests, self.errors, self.is_loaded = [], [], False
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def open(self, path, width):
        """Load a file in a window of that width; what the last page said is forgotten."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=BAND, deviceScaleFactor=1, mobile=False)
        self.requests, self.errors, self.is_loaded = [], [], False
        self.ask("Page.navigate", url=path.as_uri())
        while not self.is_loaded:
            self._hear()

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"]["value"]

    def screenshot(self):
        """The page from top to bottom, as PNG."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=size | {"scale": 1})
        return base64.b64decode(shot["data"])

    def ask(self, method, **params):
        """Send a command, hear what happens meanwhile, and return its result."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params, **self.session}))
        while (answer := self._hear()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _hear(self):
        message = json.loads(self.socket.recv(PATIENCE_S))
        params = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self.is_loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Network.loadingFailed":
                self.errors.append(params["errorText"])
            case "Runtime.exceptionThrown":
                self.errors.append(params["exceptionDetails"]["exception"]["description"])
            case "Runtime.consoleAPICalled" if params["type"] == "error":
                self.errors.append(params["args"][0]["value"])
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.errors.append(params["entry"]["text"])
        return message


@contextmanager
def chromium(folder):
    """A page of a new browser with an empty profile. The browser is stopped at the end, by its own process."""
    profile = folder / "profile"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([CHROMIUM, *SWITCHES, f"--user-data-dir={profile}"], stdout=log, stderr=log)
    try:
        with connect(address(profile / "DevToolsActivePort", process), max_size=None, proxy=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def address(file, process):
    """The browser writes its port and its path there when it listens."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the browser ended: see {file.parent.parent / 'log'}"
        port, _, path = file.read_text().partition("\n") if file.exists() else ("", "", "")
        if path:
            return f"ws://127.0.0.1:{port}{path}"
        time.sleep(0.1)
    raise AssertionError("the browser does not listen")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture(scope="module")
def report(tiny, tiny_artifacts):
    store = ArtifactStore(tiny_artifacts["train"].path.parents[1])
    return run_plainly(Session(tiny, store=store), until="evaluate")["evaluate"].path / "report.html"


def leaving(page):
    """Addresses that a page asks for beside itself and what it brings along."""
    return [address for address in page.requests[1:] if not address.startswith("data:")]


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_the_report_is_whole_without_a_network_and_fits_the_window(page, report, width):
    page.open(report, width)
    assert page.requests[0] == report.as_uri()
    assert leaving(page) == []
    assert page.errors == []
    assert page.evaluate("document.images.length") >= 2
    assert page.evaluate(UNLOADED) == 0
    assert page.evaluate("innerWidth") == width
    assert page.evaluate(OVERFLOW) == 0


def test_every_score_says_in_a_sentence_what_it_means(page, report):
    page.open(report, WIDE)
    shown = page.evaluate(MEANINGS)
    assert len(shown) >= 10
    assert [meaning for meaning in shown if len(meaning.split()) < 3 or not meaning.endswith(".")] == []


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_no_part_of_the_report_is_blank(page, report, width):
    page.open(report, width)
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))
    assert picture.shape[1] == width
    bands = [picture[top : top + BAND] for top in range(0, len(picture) - BAND, BAND)]
    assert len(bands) > 2
    assert min(np.mean(band < 200) for band in bands) > 0.005


def test_a_page_with_faults_is_seen_to_have_them(page, tmp_path):
    path = tmp_path / "faulty.html"
    path.write_text(
        f"<p style='width: {WIDE}px'>wide<img src='http://127.0.0.1:9/absent.png'>"
        "<table><tr class=score><th>bare</table><script>console.error('said'); throw new Error('thrown')</script>"
    )
    page.open(path, NARROW)
    assert leaving(page) == ["http://127.0.0.1:9/absent.png"]
    for fault in ("said", "thrown", "net::"):
        assert any(fault in error for error in page.errors), fault
    assert page.evaluate(UNLOADED) == 1
    assert page.evaluate(OVERFLOW) >= WIDE - NARROW
    assert page.evaluate(MEANINGS) == [""]
