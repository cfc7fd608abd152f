"""What a run is told apart by: its configuration as flat text, and where it came from."""

import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ddlm

ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://\S+")
QUERY_VALUE = re.compile(r"([?&;#][^=&;#\s]+=)[^&\s]+")
NAMED_OVERRIDES, BRIEF_CHARACTERS = 3, 24
"""How many settings a run's name holds, and how much of each one's value."""


def flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested config as dotted keys; absent values stay absent, passwords in addresses are struck out."""
    result: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            result[f"{prefix}{key}"] = without_password(text)
    return result


def without_password(text: str) -> str:
    """Every address in a text without what may be secret: `https://name:secret@host/?token=t` as
    `https://***@host/?token=***`."""
    return ADDRESS.sub(lambda found: QUERY_VALUE.sub(r"\1***", _login_as(found[0], "***@")), text)


def without_login(address: str) -> str:
    """`https://name:secret@host/?token=t` as `https://host/?token=***`."""
    return QUERY_VALUE.sub(r"\1***", _login_as(address, ""))


def _login_as(address: str, login: str) -> str:
    """Up to the last @: passwords have / and @ in them, too. An @ of a path alone is no login's."""
    scheme, separator, rest = address.partition("://")
    before, at, behind = rest.rpartition("@")
    is_login = at and (":" in before or not re.search("[/?#]", before))
    return f"{scheme}{separator}{login}{behind}" if is_login else address


def name_of(experiment: str, overrides: Mapping[str, Any]) -> str:
    """`quick learning_rate=0.01 at cc06000`: what an experiment's runs are told apart by in a list."""
    commit = commit_of_code()
    return " ".join([experiment, *settings(overrides), *([f"at {commit[:7]}"] if commit else [])])


def settings(overrides: Mapping[str, Any]) -> list[str]:
    """`learning_rate=0.01`, as many as a name has room for. The experiment's own name is in it already."""
    changed = [f"{key.rpartition('.')[2]}={_brief(value)}" for key, value in sorted(overrides.items()) if key != "name"]
    return changed[:NAMED_OVERRIDES] + ["…"] * (len(changed) > NAMED_OVERRIDES)


def _brief(value: Any) -> str:
    text = without_password(value if isinstance(value, str) else json.dumps(value))
    return text if len(text) <= BRIEF_CHARACTERS else f"…{text[-BRIEF_CHARACTERS:]}"


def command() -> str:
    """`ddlm run configs/quick.toml`, as it was typed; of other programs their name."""
    program, *arguments = sys.argv
    name = Path(program).name
    return shlex.join([name, *map(without_password, arguments)]) if name == "ddlm" else name


def origin() -> dict[str, str]:
    """Tags: our version, the host, the command, and the git commit where the code stands in a repository."""
    tags = {"ddlm.version": ddlm.__version__, "host": socket.gethostname(), "command": command()}
    commit = commit_of_code()
    if commit:
        tags["git.commit"] = commit
        tags["git.dirty"] = json.dumps(bool(_git("status", "--porcelain", "--untracked-files=no")))
    return tags


def commit_of_code() -> str | None:
    """From its repository, else from the name of its folder: a tree that was sent to a box is named by its commit."""
    here = Path(__file__)
    if re.fullmatch("[0-9a-f]{40}", here.parents[2].name):
        return here.parents[2].name
    is_tracked = _git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie in another's repository
    return _git("rev-parse", "HEAD") if is_tracked else None


def _git(*arguments: str) -> str | None:
    """What git says of the folder that this code is in; None without git, repository or commit."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
