"""The page's address, taken before anything slow is loaded."""

import socket

from ddlm.config import UserError

LARGEST = 65_535


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; 0 is any free port. Raises: UserError when it is taken, not allowed or not of here."""
    if not 0 <= port <= LARGEST:
        raise UserError(f"port {port}: wanted 0 to {LARGEST}; 0 takes any that is free")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        told = str(error.strerror).partition(" (")[0]
        raise UserError(
            f"port {port} at {host}: {told}; choose another with --port or --server-name, or stop what uses it"
        ) from None


def address(sock: socket.socket) -> str:
    """As a browser takes it, on this machine."""
    host, port = sock.getsockname()[:2]
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{here}:{port}"
