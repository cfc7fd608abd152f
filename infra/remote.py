"""Commands and files over one connection. What a user gives reaches the box as an argument, never as shell text."""

import secrets
import shlex
import sys
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from boxes import name
from fabric import Connection
from invoke import Exit
from paramiko import Channel, SFTPClient
from spellings import SETTING, for_a_shell, settings_of

CHUNK_BYTES = 1 << 15


def command(script: str, *words: str) -> str:
    """A line for the box's login shell: sh runs `script` with `words` as "$1", "$2", …, whatever they contain."""
    return shlex.join(["sh", "-c", script, "sh", *words])


def ask(box: Connection, script: str, *words: str) -> str | None:
    """What the script prints; None when it fails."""
    result = box.run(command(script, *words), hide=True, warn=True, in_stream=False)
    return result.stdout.strip() if result.ok else None


def do(box: Connection, script: str, *words: str, shown: bool = False) -> str:
    """What the script prints; shown: as it comes. Raises: Exit with its last word when it fails."""
    result = box.run(command(script, *words), hide="stderr" if shown else True, warn=True, in_stream=False)
    if result.failed:
        raise Exit(f"{name(box)}: {last_word(result.stderr)}", result.exited)
    return result.stdout.strip()


def show(box: Connection, script: str, *words: str) -> int:
    """Let the script's output pass as it comes, byte for byte; its exit code.

    Not Connection.run: that decodes each chunk for itself, and a character that two of them share is lost.
    """
    channel = start(box, script, *words)
    channel.set_combine_stderr(True)
    sys.stdout.flush()
    while chunk := channel.recv(CHUNK_BYTES):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    return channel.recv_exit_status()


def last_word(stderr: str) -> str:
    """The line that says why: a full disk, wherever it stands, else the last one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    full = [line for line in lines if "No space left" in line or "Disk quota exceeded" in line]
    if full:
        return f"the disk is full there; make room ({full[0]})"
    return lines[-1] if lines else "failed without a word"


def feed(box: Connection, source: BinaryIO, script: str, *words: str) -> None:
    """Run the script with a file as its standard input. Raises: Exit with its last word when it fails."""
    channel = start(box, script, *words)
    try:
        while chunk := source.read(CHUNK_BYTES):
            channel.sendall(chunk)
    except OSError:
        pass  # it ended before its input did: what it says tells why
    channel.shutdown_write()
    finish(box, channel)


def unpack(box: Connection, folder: Path, script: str, *words: str) -> None:
    """Unpack the tar archive that the script prints. Raises: Exit with its last word when it fails."""
    channel = start(box, script, *words)
    try:
        with tarfile.open(fileobj=channel.makefile("rb"), mode="r|gz") as archive:
            archive.extractall(folder, filter="data")  # a box's archive is data: no links or paths out of the folder
    except tarfile.TarError as error:
        while channel.recv(CHUNK_BYTES):  # it can't end before it is rid of the rest
            pass
        finish(box, channel)
        raise Exit(f"{name(box)}: what it sent can't be unpacked ({error})") from None
    finish(box, channel)


def start(box: Connection, script: str, *words: str) -> Channel:
    channel = box.transport.open_session()
    channel.exec_command(command(script, *words))
    return channel


def finish(box: Connection, channel: Channel) -> None:
    stderr = channel.makefile_stderr("rb").read().decode(errors="replace")
    code = channel.recv_exit_status()
    if code:
        raise Exit(f"{name(box)}: {last_word(stderr)}", code)


def send_secrets(box: Connection, file: Path, folder: str) -> tuple[list[str], list[str]]:
    """Make a file's settings `folder`/.env on the box, by SFTP and a rename. Only its owner can ever read it there.

    Returns the names that are set now, and those that were set before and are not any more.
    """
    if not file.is_file():
        raise Exit(f"{file}: no such file; copy .env.example and fill it in", 2)
    settings = settings_of(file)
    temporary = f"{folder}/.env.{secrets.token_hex(8)}"
    with box.sftp() as sftp:
        before = names_before(sftp, f"{folder}/.env")
        try:
            with sftp.open(temporary, "wx") as remote:
                remote.chmod(0o600)  # before the first byte
                remote.write(for_a_shell(settings).encode())
            sftp.posix_rename(temporary, f"{folder}/.env")
        except OSError as error:
            with suppress(OSError):
                sftp.remove(temporary)
            raise Exit(f"{name(box)}: .env can't be written there ({error}); is the disk full? See doctor") from None
    return list(settings), [each for each in before if each not in settings]


def names_before(sftp: SFTPClient, path: str) -> list[str]:
    try:
        with sftp.open(path) as remote:
            lines = remote.read().decode("utf-8", "replace").splitlines()
    except OSError:  # there was none
        return []
    return [match[1] for line in lines if (match := SETTING.fullmatch(line.strip()))]
