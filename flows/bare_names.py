"""Prefect's startup plugin: lets `prefect deployment run full-pipeline` mean full-pipeline/full-pipeline.

Prefect calls it before it parses the command line (entry point group `prefect.plugins`, switched on in prefect.toml).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from prefect.plugins import HookContext, register_hook

PREFECT_PROGRAMS = {"prefect", "prefect.exe", "-m"}
"""What sys.argv[0] is for `prefect …` and, while its package is being imported, for `python -m prefect …`."""
FLAGS = {"--watch"}
"""Options of `deployment run` that take no value."""


@register_hook
def setup_environment(*, ctx: HookContext) -> None:  # noqa: ARG001, Prefect passes it by name
    """Rewrite sys.argv in place and say so on stderr."""
    position = bare_name_at(sys.argv)
    if position is not None:
        name = sys.argv[position]
        sys.argv[position] = f"{name}/{name}"
        sys.stderr.write(f"deployment {name}: taken as {name}/{name} (flow/deployment)\n")


def bare_name_at(arguments: Sequence[str]) -> int | None:
    """Where a `prefect deployment run` command has a deployment's name without its flow's."""
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
            return None if "/" in word else position
    return None
