"""Files that editors, shells and ssh write: settings and host keys, in every spelling that these have for them."""

import base64
import binascii
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from invoke import Exit

SETTING = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(.*)")


def text_of(file: Path) -> str:
    """With or without a byte order mark. Raises: Exit, naming the line that is not UTF-8."""
    raw = file.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Exit(f"{file}: line {line} is not UTF-8 text; save the file as UTF-8", 2) from None


def settings_of(file: Path) -> dict[str, str]:
    """NAME=value, a line each, the value as it is written: nothing in it is a command.

    Quotes around a value belong to the file, and so does what follows ` #` without them. Raises: Exit for another line.
    """
    found = {}
    for number, line in enumerate(text_of(file).splitlines(), start=1):
        line = line.strip()
        if line and not line.startswith("#"):
            match = SETTING.fullmatch(line)
            if not match:
                raise Exit(f"{file}: line {number} is not NAME=value; mend it, or begin it with # to leave it out", 2)
            found[match[1]] = value_of(match[2].strip(), f"{file}: line {number}")
    return found


def value_of(written: str, place: str) -> str:
    quoted = re.fullmatch(r"(['\"])(.*)\1\s*(#.*)?", written)
    if quoted:
        return quoted[2]
    if written[:1] in ("'", '"'):
        raise Exit(f"{place} begins with a quote that nothing closes; close it, or leave it out", 2)
    return re.sub(r"\s+#.*", "", written)


def for_a_shell(settings: dict[str, str]) -> str:
    """What `.` reads back word for word, whatever is in the values."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())


def host_keys(file: Path) -> Iterator[str]:
    """The lines of a known_hosts file that name a host and its key.

    As ssh does, it passes over comments, lines that are cut off or in another encoding, certificate authorities, which
    paramiko knows nothing of, and every key that the file revokes.
    """
    lines = [line.strip() for line in file.read_bytes().decode("utf-8", "replace").lstrip("\ufeff").splitlines()]
    revoked = {key for line in lines if line.startswith("@revoked") and (key := key_of(line.partition(" ")[2]))}
    for line in lines:
        if not line.startswith(("#", "@")) and (key := key_of(line)) and key not in revoked:
            yield " ".join(line.split()[:3])


def key_of(line: str) -> str | None:
    """The key in `hosts type key [comment]`, if it is whole: its first field repeats its type."""
    fields = line.split()
    if len(fields) < 3:
        return None
    try:
        blob = base64.b64decode(fields[2], validate=True)
    except (binascii.Error, ValueError):
        return None
    end = 4 + int.from_bytes(blob[:4], "big")
    is_whole = blob[4:end] == fields[1].encode("utf-8", "replace") and len(blob) > end
    return fields[2] if is_whole else None
