"""infra's modules, as `fab -r infra` finds them; a box is an sshd of ours on loopback with a home of its own."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
Subsystem sftp internal-sftp
SetEnv HOME="{home}" PYTHONPATH="{libraries}"
"""
LIBRARIES = next(path for path in map(Path, sys.path) if path.name == "site-packages")
"""The box's Python has what this one has, so that its installation downloads nothing large."""


@dataclass
class Box:
    """folder: what is ours, the keys and the client's home. home: the box's."""

    folder: Path
    home: Path
    port: int = field(default_factory=lambda: Box.free_port())
    daemon: subprocess.Popen[bytes] | None = None

    @staticmethod
    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    @staticmethod
    def answers(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def new_key(self, name: str) -> Path:
        path = self.folder / name
        path.unlink(missing_ok=True)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return path

    def start(self) -> None:
        text = CONFIG.format(port=self.port, folder=self.folder, home=self.home, libraries=LIBRARIES)
        (self.folder / "sshd_config").write_text(text)
        command = [str(SSHD), "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "sshd.log")]
        self.daemon = subprocess.Popen(command)
        deadline = time.monotonic() + 30
        while not self.answers(self.port):
            assert self.daemon.poll() is None, (self.folder / "sshd.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def stop(self) -> None:
        assert self.daemon
        self.daemon.terminate()
        self.daemon.wait(30)

    def processes(self) -> list[psutil.Process]:
        """Those at home on the box: its jobs, and what they started."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == str(self.home):
                    found.append(process)
            except psutil.Error:  # another user's, or just ended
                continue
        return found

    def trust(self) -> None:
        """What a person does who accepts the host key."""
        kind, key, *_ = (self.folder / "host_key.pub").read_text().split()
        (self.folder / ".ssh").mkdir(exist_ok=True)
        (self.folder / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def command(self, *words: str, key: Path | None = None) -> list[str]:
        host = f"{getpass.getuser()}@127.0.0.1:{self.port}"
        identity = str(key or self.folder / "key")
        return [sys.executable, "-m", "fabric", "-r", "infra", "-H", host, "-i", identity, *words]

    def environment(self) -> dict[str, str]:
        """A person's, at home in `folder`; results come to its `here`."""
        gone = {"SSH_AUTH_SOCK", "PREFECT_API_URL"}
        kept = {name: value for name, value in os.environ.items() if name not in gone}
        return {**kept, "HOME": str(self.folder), "DDLM_HOME": str(self.folder / "here"), "OMP_NUM_THREADS": "1"}

    def fab(self, *words: str, key: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words, key=key), cwd=ROOT, env=self.environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=280,
        )  # fmt: skip

    def ok(self, *words: str) -> str:
        """What a task prints that succeeds."""
        done = self.fab(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refused(self, *words: str, key: Path | None = None) -> str:
        """The one line of a task that fails."""
        done = self.fab(*words, key=key)
        assert done.returncode not in (0, None)
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr


@pytest.fixture(scope="session")
def new_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Box]]:
    """Starts boxes that are trusted; each is stopped by the process that it is."""
    boxes = []

    def start(home: Path | None = None) -> Box:
        folder = tmp_path_factory.mktemp("box")
        box = Box(folder, home or folder / "home of its own")
        box.home.mkdir(exist_ok=True)
        box.new_key("host_key")
        box.new_key("key")
        box.start()
        boxes.append(box)
        box.trust()
        return box

    if SSHD is None:
        pytest.skip("no sshd: needs openssh-server, Debian's package of that name")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own, where no service has made it
    yield start
    for box in boxes:
        for process in box.processes():
            process.kill()
        box.stop()


@pytest.fixture(scope="session")
def box(new_box: Callable[..., Box]) -> Box:
    return new_box()


@pytest.fixture(scope="session")
def ready(box: Box) -> Box:
    """The same one, bootstrapped."""
    box.ok("bootstrap", "--python", sys._base_executable)  # type: ignore[attr-defined]
    return box
