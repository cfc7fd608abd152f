"""Commands that README, documents and help texts quote have the arguments and options that the programs take."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from ddlm.cli import app

ROOT = Path(__file__).parents[3]
GROUP = typer.main.get_command(app)


def commands(text: str) -> set[str]:
    """`ddlm …` at the beginning of an indented line, or after another command on it; up to a comment."""
    lines = re.findall(r"^ {4,}(?:\S*/)?(ddlm .*|.*&& ddlm .*)$", text, re.MULTILINE)
    parts = [part for line in lines for part in re.split(r"\s+#.*|\s{3,}|&&", line)]
    return {part.strip() for part in parts if part.strip().startswith("ddlm ")}


def helps(group: object = GROUP) -> str:
    """The help texts of all commands, below one another."""
    found = [group.help or ""]  # type: ignore[attr-defined]
    for command in getattr(group, "commands", {}).values():
        found.append(helps(command))
    return "\n".join(re.sub(r"^ +ddlm", "    ddlm", text, flags=re.MULTILINE) for text in found)


DOCUMENTS = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
QUOTED = [
    (name, command) for name, text in {**DOCUMENTS, "--help": helps()}.items() for command in sorted(commands(text))
]


def test_readme_and_help_quote_commands() -> None:
    assert {"README.md", "--help"} <= {name for name, _ in QUOTED}


@pytest.mark.parametrize(("document", "command"), QUOTED)
def test_a_quoted_command_can_be_parsed(document: str, command: str) -> None:
    words = shlex.split(command)[1:]
    context, group = GROUP.make_context("ddlm", words[:0] or ["--version"], resilient_parsing=True), GROUP
    while hasattr(group, "commands"):
        assert words[0] in group.commands, f"{document}: {command}"
        group, words = group.commands[words[0]], words[1:]
    group.make_context(command, list(words), parent=context)
    if "--data" in words:
        assert words[words.index("--data") + 1].startswith("outputs/"), "a file that every reader has"
