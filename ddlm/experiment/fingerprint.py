"""A stage's code as a digest: the syntax trees of every ddlm module that it can reach."""

import ast
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

NO_RESULT = {"ddlm", "ddlm.artifacts", "ddlm.config", "ddlm.tracking"}
"""Modules that store, parse or report, and can't change what a stage computes."""


@cache
def fingerprint(module: str) -> str:
    """sha256 over the module and all that it imports from ddlm. Comments, layout and docstrings do not count."""
    digest = hashlib.sha256()
    for name in sorted(reachable(module) - NO_RESULT):
        digest.update(f"{name}\n{_tree(name)}\n".encode())
    return digest.hexdigest()


def reachable(module: str) -> set[str]:
    """The module, its parent packages and, transitively, every ddlm module that one of them imports."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        waiting += _imports(name)
        if "." in name:
            waiting.append(name.rpartition(".")[0])
    return found


def _imports(module: str) -> list[str]:
    names: list[str] = []
    for node in ast.walk(_parse(module)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.startswith("ddlm.") and _path(name)]


@cache
def _tree(module: str) -> str:
    tree = _parse(module)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [item for item in body if not _is_text(item)]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _parse(module: str) -> ast.Module:
    path = _path(module)
    assert path, module
    return ast.parse(path.read_bytes())


@cache
def _path(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # `from ddlm.config import Section`: a name, not a module
        return None
    return Path(spec.origin) if spec and spec.origin else None
