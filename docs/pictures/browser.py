"""A headless Chromium, led by its DevTools protocol: opens a page, waits for what it shows, takes a picture."""

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import count
from pathlib import Path
from socket import create_connection
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from websockets.sync.client import ClientConnection, connect

SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip
PATIENCE_S = 90.0
DRAWING_S = 6.0
"""Charts and canvases are drawn some time after the words around them."""
COLOURS = 128
"""Of a picture's palette: interfaces are flat, and a palette makes them a third as large."""


class Page:
    """One page. A picture is taken once all that it must show is there."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._numbers, self._session = socket, count(1), {}
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session: dict[str, str] = {"sessionId": attached["sessionId"]}
        self._ask("Page.enable")

    def open(self, url: str, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        self._ask("Page.navigate", url="about:blank")  # else a page that only changed its fragment is not loaded anew
        self._ask("Page.navigate", url=url)

    def open_when_there(self, url: str, width: int, height: int) -> None:
        """As `open`, once somebody listens there. Raises: SystemExit after a while."""
        deadline, place = time.monotonic() + PATIENCE_S, urlsplit(url)
        while True:
            with suppress(OSError), create_connection((place.hostname, place.port), 1):
                return self.open(url, width, height)
            if time.monotonic() > deadline:
                sys.exit(f"nobody listens at {url}")
            time.sleep(0.3)

    def run(self, script: str) -> Any:
        """What a script evaluates to in the page."""
        return self._ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def click(self, text: str) -> None:
        """Press the mouse on the smallest element that says exactly this, or has it as its label."""
        says = f"each => [each.innerText?.trim(), each.ariaLabel].includes({json.dumps(text)})"
        deadline = time.monotonic() + PATIENCE_S
        while not self.run(f"!!(window.found = [...document.querySelectorAll('body *')].filter({says}).at(-1))"):
            if time.monotonic() > deadline:
                sys.exit(f"nothing on the page says {text}")
            time.sleep(0.3)
        self.run("found.scrollIntoView({block: 'center'})")
        x, y = self.run("(b => [b.x + b.width / 2, b.y + b.height / 2])(found.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def wait_for(self, *texts: str) -> None:
        """Until the page shows all of these, and its images are loaded. Raises: SystemExit after a while."""
        deadline = time.monotonic() + PATIENCE_S
        shows = "document.body.innerText + [...document.querySelectorAll('svg text')].map(t => t.textContent)"
        waiting = "[...document.images].filter(image => !image.complete).length"
        while True:
            shown = self.run(shows) or ""
            missing = [text for text in texts if text not in shown]
            if not missing and not self.run(waiting):
                break
            if time.monotonic() > deadline:
                sys.exit(f"the page never showed {missing}; it shows:\n{shown[:2000]}")
            time.sleep(0.3)
        time.sleep(DRAWING_S)

    def picture(self, path: Path) -> None:
        data = base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])
        image = Image.open(BytesIO(data)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        image.save(path, optimize=True)

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters, **self._session}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if message.get("id") == number:
                if "error" in message:
                    sys.exit(f"{method}: {message['error']['message']}")
                return dict(message["result"])


@contextmanager
def chromium() -> Iterator[Page]:
    """Raises: SystemExit where there is no Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        sys.exit("no browser: install chromium (apt-get install chromium)")
    with tempfile.TemporaryDirectory() as profile:
        command = [program, *SWITCHES, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(address_in(Path(profile) / "DevToolsActivePort"), max_size=None) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            process.wait(30)
            time.sleep(0.5)  # its children still write into the profile


def address_in(file: Path) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while not (file.exists() and file.read_text().count("\n")):
        if time.monotonic() > deadline:
            sys.exit("chromium did not start")
        time.sleep(0.1)
    port, path = file.read_text().splitlines()
    return f"ws://127.0.0.1:{port}{path}"
