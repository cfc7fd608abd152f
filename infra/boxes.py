"""Which boxes a task runs on, and what goes wrong on the way to one, each said in one line."""

import errno
import logging
import shlex
import socket
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import Parameter, Signature
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TextIO

import fabric
from fabric import Connection
from invoke import Context, Exit
from paramiko import (
    AuthenticationException,
    BadHostKeyException,
    MissingHostKeyPolicy,
    PasswordRequiredException,
    PKey,
    SSHClient,
    SSHException,
)
from spellings import host_keys, text_of

HOSTS = Path(__file__).with_name("hosts.toml")
KNOWN_HOSTS = "~/.ssh/known_hosts /etc/ssh/ssh_known_hosts"
CONNECT_TIMEOUT_S = 10
KEEP_ALIVE_S = 15


class BoxTask(fabric.Task):
    """A task that gets an open, trusted connection: to each box of `-H`, else to each of `--role`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = {**self.help, "role": "the boxes that infra/hosts.toml lists under this name, instead of -H"}

    def argspec(self, body: Any) -> Signature:
        signature = super().argspec(body)
        role = Parameter("role", Parameter.KEYWORD_ONLY, default="")
        return signature.replace(parameters=[*signature.parameters.values(), role])

    def __call__(self, *args: Any, role: str = "", **kwargs: Any) -> None:
        context, *rest = args
        for box in chosen(context, role):
            with explained(box):
                connect(box)
                super().__call__(box, *rest, **kwargs)


def chosen(context: Context, role: str) -> list[Connection]:
    if isinstance(context, Connection) and not role:
        return [context]
    if isinstance(context, Connection) or not role:
        raise Exit(
            "which boxes? give -H user@host, or --role NAME of infra/hosts.toml after the task, and one of the two", 2
        )
    return [Connection(host, config=context.config) for host in hosts_of(role)]


def hosts_of(role: str) -> list[str]:
    """Raises: Exit when the file is missing or broken, or has no such role."""
    try:
        roles = tomllib.loads(text_of(HOSTS).replace("\r\n", "\n"))
    except FileNotFoundError:
        raise Exit(
            "--role: infra/hosts.toml is missing; copy infra/hosts.example.toml and write your boxes in it", 2
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise Exit(f"infra/hosts.toml: not valid TOML ({error}); mend that line", 2) from None
    section = roles.get(role)
    hosts = section.get("hosts") if isinstance(section, dict) else None
    if not hosts:
        raise Exit(f"--role {role}: no boxes in infra/hosts.toml; it has {', '.join(roles) or 'no roles'}", 2)
    return list(hosts)


def name(box: Connection) -> str:
    """As one would type it after -H."""
    return f"{box.user}@{box.original_host}" + (f":{box.port}" if box.port != 22 else "")


def connect(box: Connection) -> None:
    """Open it. Only a box whose host key is known is trusted; Fabric's own default is to trust any."""
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # it writes tracebacks of what `explained` says in a line
    if box.connect_timeout is None and "timeout" not in box.connect_kwargs:
        box.connect_timeout = CONNECT_TIMEOUT_S
    for file in (Path(each).expanduser() for each in known_hosts_of(box)):
        if file.is_file():
            load_host_keys(box, file)
    for file in box.connect_kwargs.get("key_filename", []):
        if not Path(file).expanduser().exists():
            raise Exit(f"-i {file}: no such key file; give one that is there", 2)
    box.client.set_missing_host_key_policy(Refuse())
    box.open()
    box.transport.set_keepalive(KEEP_ALIVE_S)


def known_hosts_of(box: Connection) -> list[str]:
    """The files that ssh would look into; the first is the one that it writes."""
    return shlex.split(box.ssh_config.get("userknownhostsfile", KNOWN_HOSTS))


def load_host_keys(box: Connection, file: Path) -> None:
    """Those that paramiko can read: one line that it can't would keep it from all."""
    with NamedTemporaryFile("w", suffix=".known_hosts") as readable:
        readable.writelines(f"{line}\n" for line in host_keys(file))
        readable.flush()
        box.client.load_system_host_keys(readable.name)


class UnknownHost(SSHException):
    """Its first argument is the key that the box showed."""


class Refuse(MissingHostKeyPolicy):
    def missing_host_key(self, client: SSHClient, hostname: str, key: PKey) -> None:  # noqa: ARG002, paramiko's signature
        raise UnknownHost(key)


@contextmanager
def explained(box: Connection) -> Iterator[None]:
    """Raises: Exit, one line that says what to do, for what SSH and the network raise."""
    try:
        yield
    except UnknownHost as error:
        (key,) = error.args
        raise Exit(
            f"{name(box)}: unknown host, refused; its {key.get_name()} key is {key.fingerprint}. If that is what the "
            f"box's owner says, accept it: ssh-keyscan -p {box.port} {box.host} >> {known_hosts_of(box)[0]}"
        ) from None
    except BadHostKeyException as error:
        entry = box.host if box.port == 22 else f"[{box.host}]:{box.port}"
        raise Exit(
            f"{name(box)}: its host key has changed to {error.key.fingerprint}, refused. Another machine may answer in "
            f"its place; if the box was set up anew, forget the old key: ssh-keygen{_file_of(box)} -R '{entry}'"
        ) from None
    except socket.gaierror:
        raise Exit(f"{name(box)}: no machine has that name; check the spelling, or your ~/.ssh/config") from None
    except PasswordRequiredException:
        raise Exit(
            f"{name(box)}: your key has a passphrase; ssh-add it to an ssh-agent, or give --prompt-for-passphrase"
        ) from None
    except (SSHException, EOFError, OSError) as error:
        if isinstance(error, BrokenPipeError) and not is_read(sys.stdout):
            raise SystemExit(1) from None  # whoever reads our output has enough of it
        if isinstance(error, AuthenticationException) or "No authentication methods" in str(error):
            raise Exit(f"{name(box)}: it takes none of your keys; give one with -i FILE, or add yours there") from None
        if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
            raise Exit(f"here, on this machine: {error}") from None
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Exit(f"{name(box)}: no connection ({reason}); is it on, is sshd on port {box.port}?") from None


def is_read(stream: TextIO) -> bool:
    """Whether somebody still takes what is written there."""
    try:
        stream.flush()
        return True
    except BrokenPipeError:
        return False


def _file_of(box: Connection) -> str:
    """The option that names the file of known hosts, where ssh's configuration has another one."""
    return f" -f {known_hosts_of(box)[0]}" if "userknownhostsfile" in box.ssh_config else ""
