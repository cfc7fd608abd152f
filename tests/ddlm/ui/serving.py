"""The page as a process of its own, as people start it; and what it says to whom."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        code = self.process.wait(LEAVING_S)
        assert self.process.stdout
        self.process.stdout.close()
        return code


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
