"""Prefect's startup plugin: lets `prefect deployment run sweep-gpu` mean sweep/sweep-gpu, names the run that it queues
by what was asked for, and says in one line that no server answers, where Prefect would show a traceback.

Prefect calls it before it parses the command line (entry point group `prefect.plugins`, switched on in prefect.toml).
"""

import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from prefect.plugins import HookContext, register_hook
from prefect.settings import get_current_settings

from ddlm.loopback import spare_loopback

PREFECT_PROGRAMS = {"prefect", "prefect.exe", "-m"}
"""What sys.argv[0] is for `prefect …` and, while its package is being imported, for `python -m prefect …`."""
FLAGS = {"--watch"}
"""Options of `deployment run` that take no value."""
PARAMETERS = {"-p", "--param", "--params"}
NAME_CHARACTERS = 120
QUEUED = ", queued"
BRACES = str.maketrans("{}", "()")
"""How the name ends that a run has until it begins; then flows/names.py gives it its own."""
ASKING = {"automation", "deploy", "deployment", "flow-run", "work-pool", "work-queue"}
"""Commands that mean nothing without a server."""
PATIENCE_S = 10.0


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Rewrite sys.argv in place and say so on stderr. Raises: SystemExit where a server is needed and none answers."""
    spare_loopback()
    if asks_a_server(sys.argv):
        require_server(ctx.api_url)
    position = deployment_at(sys.argv)
    if position is not None and not any(word.split("=")[0] == "--flow-run-name" for word in sys.argv):
        sys.argv += ["--flow-run-name", queued_name(sys.argv[position].rpartition("/")[2], sys.argv)]
    if position is not None and "/" not in sys.argv[position]:
        name = sys.argv[position]
        sys.argv[position] = full_name(name, flows_of(name, ctx.api_url) if ctx.api_url else [])
        sys.stderr.write(f"deployment {name}: taken as {sys.argv[position]} (flow/deployment)\n")


def asks_a_server(arguments: Sequence[str]) -> bool:
    """Whether it is a Prefect command that needs one."""
    words = [word for word in arguments[1:] if not word.startswith("-")]
    wants_help = {"--help", "-h"} & set(arguments)
    return Path(arguments[0]).name in PREFECT_PROGRAMS and not wants_help and bool(ASKING & set(words[:1]))


def require_server(url: str | None) -> None:
    """Raises: SystemExit with exit code 2. Where no server is named, Prefect asks an empty one of its own."""
    if not url:
        sys.stderr.write(
            "PREFECT_API_URL is not set: asking a server of this command's own, which `make server` isn't\n"
        )
        return
    try:
        with urlopen(f"{url}/health", timeout=PATIENCE_S) as answer:
            if b"<html" not in answer.read(1000).lower():
                return
        sys.stderr.write(f"PREFECT_API_URL {url}: a page answers there, not Prefect's API; its address ends in /api\n")
        raise SystemExit(2)
    except HTTPError:  # an answer all the same; Prefect says what it means
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, SSLError):  # an answer too: Prefect has settings of its own about certificates
            return
        sys.stderr.write(f"PREFECT_API_URL {url}: no Prefect server answers ({reason}); start it with `make server`\n")
        raise SystemExit(2) from None


def full_name(name: str, flows: Sequence[str]) -> str:
    """flow/deployment. Raises: SystemExit where several flows have a deployment of this name and none is called so."""
    if len(flows) > 1 and name not in flows:
        sys.stderr.write(f"deployment {name}: {', '.join(flows)} have one each; write FLOW/{name}\n")
        raise SystemExit(2)
    flow = name if name in flows or not flows else flows[0]  # a name that nobody knows is Prefect's to refuse
    return f"{flow}/{name}"


def flows_of(name: str, url: str) -> list[str]:
    """The flows that have a deployment of this name, as the server knows them; none where it does not say."""
    try:
        found = ask(f"{url}/deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        flows = {"id": {"any_": [each["flow_id"] for each in found]}}
        return [each["name"] for each in ask(f"{url}/flows/filter", {"flows": flows})]
    except (OSError, ValueError):
        return []


def ask(url: str, question: dict[str, Any]) -> Any:
    """The JSON answer of Prefect's API. Raises: OSError, ValueError."""
    key = get_current_settings().api.key
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key.get_secret_value()}"
    request = Request(url, data=json.dumps(question).encode(), headers=headers)
    with urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def deployment_at(arguments: Sequence[str]) -> int | None:
    """Where a `prefect deployment run` command has the deployment, by its own name alone or with its flow's."""
    words = list(arguments)
    if Path(words[0]).name not in PREFECT_PROGRAMS or "deployment" not in words:
        return None
    start = words.index("deployment")
    if words[start + 1 : start + 2] != ["run"]:
        return None
    for position in range(start + 2, len(words)):
        word, before = words[position], words[position - 1]
        is_value = before.startswith("-") and before not in FLAGS and "=" not in before
        if not word.startswith("-") and not is_value:
            return position
    return None


def queued_name(deployment: str, arguments: Sequence[str]) -> str:
    """`full-pipeline experiment=configs/small.toml, queued`. Without braces: Prefect fills them in as in a template."""
    words = list(arguments)
    given = [value for option, value in pairwise(words) if option in PARAMETERS]
    given += [word.partition("=")[2] for word in words if word.partition("=")[0] in PARAMETERS and "=" in word]
    return " ".join([deployment, *given]).translate(BRACES)[:NAME_CHARACTERS] + QUEUED
