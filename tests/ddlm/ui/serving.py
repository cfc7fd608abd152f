"""The page as a process of its own, as people start it; and what it says to whom."""

import http.client
import http.server
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

LEAVING_S = 30
EARS = """
import sys

def hear(event, given, said=open({path!r}, "a", buffering=1)):
    if event == "socket.connect" and not isinstance(given[1], (str, bytes)):
        said.write(f"{{given[1][0]}}\\n")
    if event == "socket.getaddrinfo":
        said.write(f"{{given[0]}}\\n")

sys.addaudithook(hear)
"""
"""A sitecustomize.py: writes down every host that the process connects to or looks up."""
HERE = {"127.0.0.1", "localhost", "::1", "None"}


class Server:
    """`ddlm ui owl`. address: what it prints. log: its stderr."""

    def __init__(self, home: Path, folder: Path, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log, self.heard = folder / "stderr", folder / "heard"
        (folder / "sitecustomize.py").write_text(EARS.format(path=str(self.heard)))
        environment = {
            **os.environ, "DDLM_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder),
            "GRADIO_SERVER_PORT": "x", "GRADIO_NUM_PORTS": "y", "GRADIO_ALLOWED_PATHS": "/",
        }  # fmt: skip
        environment.pop("DO_NOT_TRACK", None)
        command = [sys.executable, "-m", "ddlm", "ui", "owl", "--precision", "float32", *options]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://"), self.log.read_text()

    def cpu_s(self) -> float:
        """Seconds that it has computed."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def strangers(self) -> set[str]:
        """Hosts other than this one that it asked for."""
        return set(self.heard.read_text().split()) - HERE

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        code = self.process.wait(LEAVING_S)
        assert self.process.stdout
        self.process.stdout.close()
        return code


@contextmanager
def proxied(port: int, prefix: str) -> Iterator[str]:
    """A proxy that shows what is behind a port below a path. Gives its address; every other path is not found."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def hand_on(self) -> None:
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            with closing(http.client.HTTPConnection("127.0.0.1", port)) as behind:
                behind.request(self.command, self.path.removeprefix(prefix), body, dict(self.headers))
                self.answer(behind.getresponse())

        def answer(self, found: http.client.HTTPResponse) -> None:
            self.send_response_only(found.status)
            for name, value in found.getheaders():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            with suppress(http.client.HTTPException, OSError):  # one of the two has gone, as at a test's end
                while part := found.read1():
                    self.wfile.write(part)

        do_GET = do_POST = hand_on  # the library's names

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{prefix}/"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serving(home: Path, folder: Path, *options: str) -> Iterator[Server]:
    """Whatever it does, it raises nothing that it does not catch."""
    server = Server(home, folder, *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)
    assert "Traceback" not in server.log.read_text(), server.log.read_text()
