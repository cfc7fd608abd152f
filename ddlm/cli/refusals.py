"""What is wrong with a command line, in one line: what, got, wanted, what to do."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from ddlm.config import shortened

UsageError: Any = typer.BadParameter.__mro__[1]
"""Of the click that typer uses: its own copy, in later versions."""
WANTED: Mapping[str, str] = {
    r"valid integer": "a whole number",
    r"valid (float|number)": "a number",
    r"finite": "a finite number",
    r"greater than or equal to (\S+)": r"at least \1",
    r"less than or equal to (\S+)": r"at most \1",
    r"greater than (\S+)": r"more than \1",
    r"less than (\S+)": r"less than \1",
    r"not in the range x>=(\S+?)\.": r"at least \1",
    r"valid path": "a path",
}
"""How we say what the parser wants, by what it says."""


def refusal(error: Any, arguments: Sequence[str]) -> str:
    """One line for a usage error of typer's. arguments: the command line without the program's name."""
    command = " ".join(["ddlm", *error.ctx.command_path.split()[1:]]) if error.ctx else "ddlm"
    place = f"{command.removeprefix('ddlm').strip()}: ".removeprefix(": ")
    return place + _said(error, command, arguments)


def _said(error: Any, command: str, arguments: Sequence[str]) -> str:
    kind, said = type(error).__name__, error.format_message()
    if kind == "MissingParameter":
        return f"{_name(error.param)} is missing; `{command} --help` has examples"
    if kind in ("NoSuchOption", "BadOptionUsage"):
        return _about_an_option(error, command)
    if kind == "BadParameter":
        return f"{_name(error.param)}{_got(error.param, arguments)}, wanted {_wanted(said)}"
    if "ommand" in said or kind == "NoArgsIsHelpError":
        return _about_a_command(error, said)
    extra = re.search(r"\(([^()]*)\)$", said)
    if extra:
        return f"got {shortened(extra[1])} besides all that it takes; put a text with blanks into quotes"
    return f"{said[0].lower()}{said[1:]}; `{command} --help` has examples"


def _about_an_option(error: Any, command: str) -> str:
    if type(error).__name__ == "BadOptionUsage":
        return f"{error.option_name} has no value; write {error.option_name} VALUE"
    near = " or ".join(error.possibilities or ())
    remedy = f"did you mean {near}?" if near else f"`{command} --help` lists all"
    return f"unknown option {shortened(error.option_name)}; {remedy}"


def _about_a_command(error: Any, said: str) -> str:
    names = ", ".join(error.ctx.command.commands)
    unknown = re.search(r"'(.*)'", said)
    got = f"unknown command {shortened(repr(unknown[1]))}" if unknown else "a command is missing"
    return f"{got}; wanted one of {names}"


def _name(parameter: Any) -> str:
    """`--data`, or `MODEL` of an argument."""
    options = [name for name in parameter.opts if name.startswith("--")]
    return options[0] if options else str(parameter.metavar or parameter.name).strip("[]").upper()


def _got(parameter: Any, arguments: Sequence[str]) -> str:
    """What was given for it, where the command line shows it."""
    for index, word in enumerate(arguments):
        option, separator, value = word.partition("=")
        if option in parameter.opts and option.startswith("-"):
            given = value if separator else next(iter(arguments[index + 1 :]), "")
            return f": got {shortened(repr(given))}"
    return ": a value that it does not take"


def _wanted(said: str) -> str:
    for pattern, ours in WANTED.items():
        found = re.search(pattern, said)
        if found:
            return str(found.expand(ours))
    return said
