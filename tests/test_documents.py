"""Documents say what is so."""

import re
from pathlib import Path

import pytest

from ddlm.experiment import Experiment

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SOURCES = {path: path.read_text() for folder in ("ddlm", "flows", "tasks") for path in (ROOT / folder).rglob("*.py")}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_links_and_pictures_resolve() -> None:
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("benchmarks/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_tree_in_the_readme_exists() -> None:
    tree = README.split("## The house")[1].split("`make test`")[0]
    folder = ROOT
    for line in tree.splitlines():
        words = line.split()
        if not words:
            continue
        if not line.startswith("      "):
            folder = ROOT
        for word in words:
            if not re.fullmatch(r"[\w.]+(/|\.py)", word):
                break
            assert (folder / word).exists(), word
        if not line.startswith("      ") and words[0].endswith("/"):
            folder = ROOT / words[0]


def test_quoted_configs_and_make_targets_exist() -> None:
    for name in re.findall(r"configs/\w+\.toml", README):
        assert (ROOT / name).exists()
    rules = re.findall(r"^(\w[\w -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = [name for rule in rules for name in rule.split()]
    for name in re.findall(r"make ([a-z0-9-]+)", README.split("Python 3.11 or newer and make")[1]):
        assert name in targets, name


@pytest.mark.parametrize(
    "section", [name for name, field in Experiment.model_fields.items() if name not in ("name", "seed")]
)
def test_every_config_key_is_read_by_something(section: str) -> None:
    kind = Experiment.model_fields[section].annotation
    for key in kind.model_fields:  # type: ignore[union-attr]
        reads = sum(len(re.findall(rf"\.{key}\b", text)) for text in SOURCES.values())
        assert reads > 0, f"{section}.{key}"


def test_no_prints_and_no_pickles_in_the_library() -> None:
    for path, text in SOURCES.items():
        if "runtime" not in path.parts:
            assert not re.search(r"^\s*print\(", text, re.MULTILINE), path
        assert "import pickle" not in text, path
        assert "torch.load(" not in text, path
