"""What a client may send, and how long it may take: deadlines, and the requests that RFC 9112 has refused.

`Incoming` is read as a connection's file. A request has REQUEST_S from its first byte to its last, however slowly its
bytes come; between requests a connection may be silent for IDLE_S.
"""

from __future__ import annotations

import io
import re
import socket
import time
from collections import Counter
from collections.abc import Iterable
from email.message import Message
from urllib.parse import urlsplit

IDLE_S = 30
REQUEST_S = 15
CONNECTIONS, PER_ADDRESS = 32, 8
"""Open at once, in all and from one address of another machine; more are closed at once."""
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\0\r\n]*\r?\n")
"""RFC 9112, 5 and 2.2: a name, a colon at once, no bare carriage return, no continued line."""


class Incoming(io.RawIOBase):
    """A socket's bytes, under a deadline. head: the lines of the request that is being read."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._until = connection, 0.0
        self.head: list[bytes] = []

    def begin(self) -> None:
        """The next byte is a new request's."""
        self._until, self.head = 0.0, []

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Raises: TimeoutError when the request takes too long."""
        left = self._until - time.monotonic() if self._until else IDLE_S
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(min(IDLE_S, left))
        count = self._connection.recv_into(buffer)
        self._until = self._until or time.monotonic() + REQUEST_S
        return count


class Request(io.BufferedReader):
    """The same in lines; those of the head are kept as they came."""

    raw: Incoming  # type: ignore[assignment]

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        self.raw.head.append(line)
        return line


class Places:
    """How many connections each address has. Not for several threads at once."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def take(self, address: str) -> bool:
        """Whether it may have one more."""
        most = CONNECTIONS if address in LOOPBACK else PER_ADDRESS
        if self._open.total() >= CONNECTIONS or self._open[address] >= most:
            return False
        self._open[address] += 1
        return True

    def leave(self, address: str) -> None:
        self._open[address] -= 1
        if self._open[address] <= 0:
            del self._open[address]


def objection(head: Iterable[bytes], headers: Message) -> str | None:
    """Why a request must be answered with 400 (RFC 9112): proxies in front of this could read it in another way.

    head: the lines behind the request line, the empty one last.
    """
    if any(not FIELD.fullmatch(line) for line in head if line.strip(b"\r\n")):
        return "a header line that is not NAME: VALUE"
    hosts, lengths = headers.get_all("Host", []), headers.get_all("Content-Length", [])
    if len(hosts) != 1:
        return f"{len(hosts)} Host headers, wanted one"
    if host_name(hosts[0]) is None:
        return "a Host that is no host"
    if len(lengths) > 1:
        return f"{len(lengths)} Content-Length headers, wanted one"
    if lengths and headers.get_all("Transfer-Encoding"):
        return "both Content-Length and Transfer-Encoding, wanted one"
    return None


def host_name(host: str) -> str | None:
    """The name in a Host header, without its port; None for what is none."""
    if re.search(r"[^A-Za-z0-9._:\[\]-]", host):
        return None
    try:
        parts = urlsplit(f"//{host}")
        return None if parts.port == 0 else parts.hostname
    except ValueError:
        return None
