"""`python -m flows NAME key=value …`: a flow in this process, beside a server of its own. Values are TOML or JSON."""

import json
import sys
from importlib import import_module
from typing import Any

from ddlm.config import UserError, parse_override
from flows.server import embedded

FLOWS = {
    "full-pipeline": "flows.full_pipeline:full_pipeline",
    "retrain": "flows.retrain:retrain",
    "evaluate": "flows.evaluate:evaluate_model",
    "sweep": "flows.sweep:sweep",
    "compare": "flows.compare:compare",
}


def main(arguments: list[str]) -> int:
    """The exit code: 2 for the user's mistakes, which are one line on stderr."""
    try:
        if not arguments or arguments[0] not in FLOWS:
            raise UserError(f"unknown flow {' '.join(arguments[:1])!r}; wanted one of {', '.join(FLOWS)}")
        parameters = dict(map(parse_parameter, arguments[1:]))
        with embedded():
            from prefect.exceptions import ParameterBindError, ParameterTypeError

            from flows.command import without_the_users_mistakes

            without_the_users_mistakes()
            module, _, name = FLOWS[arguments[0]].partition(":")
            try:
                shown = getattr(import_module(module), name)(**parameters)
            except (ParameterBindError, ParameterTypeError) as error:
                raise UserError(f"{arguments[0]}: {' '.join(str(error).split())}"[:400]) from None
            sys.stdout.write(f"{shown.markdown()}\n")
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def parse_parameter(text: str) -> tuple[str, Any]:
    """`trials=4`, `grid={"training.steps": [2, 4]}`, `data=stories.txt`. Raises: UserError without a `=`."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return parse_override(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
