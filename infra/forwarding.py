"""Ports of the box's loopback that lead to servers of this machine, so that no server listens to the world."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Event

from boxes import name
from fabric import Connection
from fabric.tunnels import Tunnel
from invoke import Exit
from paramiko import Channel, SSHException

LOOPBACK = "127.0.0.1"


@contextmanager
def forwarded(box: Connection, ports: Iterable[str]) -> Iterator[list[str]]:
    """Forward while the block lasts; a line for each port. ports: the same there and here, or BOX:HERE.

    Not Fabric's `forward_remote`: a second port sends both to the second server, and a server that is down ends the
    connection.
    """
    here = dict(map(parse, ports))

    def lead(channel: Channel, _source: tuple[str, int], target: tuple[str, int]) -> None:
        try:
            sock = socket.create_connection((LOOPBACK, here[target[1]]), timeout=5)
        except OSError:
            channel.close()
            return
        sock.settimeout(None)
        Tunnel(channel, sock, Event()).start()

    for port in here:
        try:
            box.transport.request_port_forward(LOOPBACK, port, lead)
        except SSHException:
            raise Exit(f"{name(box)}: its port {port} is taken, or its sshd forbids forwarding; try --port") from None
    yield [f"{LOOPBACK}:{there} leads to port {local} here" for there, local in here.items()]


def parse(port: str) -> tuple[int, int]:
    """`4200` or `14200:4200` to the box's port and ours."""
    there, _, local = port.partition(":")
    try:
        return int(there), int(local or there)
    except ValueError:
        raise Exit(f"--port {port}: wanted a number, or BOX:HERE such as 14200:4200", 2) from None
