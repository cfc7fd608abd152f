"""A stage's code as a digest: the syntax trees of every ddlm module that it can reach."""

import ast
import hashlib
import re
import threading
from functools import cache
from pathlib import Path

import ddlm

ROOT = Path(ddlm.__file__).parents[1]
SHIPPED = {"ddlm.export.device": ("*.sh", "*.txt", "*.service", "*.md")}
"""Files of a package that are no modules and stand in what a stage makes, as patterns."""
NO_RESULT = re.compile(r"ddlm(\.(artifacts|config|tracking|data\.progress|training\.(profiling|interruption))(\..*)?)?")
"""Modules that store, parse, watch or report, and can't change what a stage computes."""
PARSER = threading.Lock()
"""CPython's parser counts its depth once for all threads: stages side by side would end in a SystemError."""


@cache
def fingerprint(module: str) -> str:
    """sha256 over the module and all that it imports from ddlm, and what ships with them.

    Comments, layout and docstrings do not count.
    """
    digest = hashlib.sha256()
    with PARSER:
        for name in sorted(name for name in reachable(module) if not NO_RESULT.fullmatch(name)):
            digest.update(f"{name}\n{_tree(name)}\n".encode())
            for path in _shipped(name):
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def reachable(module: str) -> set[str]:
    """The module and, transitively, every ddlm module that one of them imports, each with its parent packages.

    What a parent package imports is not followed: the packages hold configurations of their neighbours.
    """
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imports(name)
    parents = (name.rpartition(".")[0] for name in found)
    return found | {parent for parent in parents if parent}


@cache
def _imports(module: str) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(_parse(module)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.startswith("ddlm.") and _path(name))


def _shipped(module: str) -> list[Path]:
    place = ROOT.joinpath(*module.split("."))
    return sorted(path for pattern in SHIPPED.get(module, ()) for path in place.glob(pattern))


@cache
def _tree(module: str) -> str:
    path = _path(module)
    assert path, module
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [item for item in body if not _is_text(item)]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def _parse(module: str) -> ast.Module:
    path = _path(module)
    assert path, module
    return ast.parse(path.read_bytes())


@cache
def _path(module: str) -> Path | None:
    """The module's file. By name, since asking the import system would import its parents: torch takes seconds."""
    place = ROOT.joinpath(*module.split("."))
    candidates = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((path for path in candidates if path.is_file()), None)
