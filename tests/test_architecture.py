"""Who may import whom: flows → tasks → ddlm, and downwards only inside ddlm. Read from the syntax trees."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = (
    {"__main__"},
    {"cli", "ui", "bench"},
    {"experiment"},
    {"training"},
    {"evaluation", "rendering", "export"},
    {"generation"},
    {"model", "diffusion", "data"},
    {"tokenizer"},
    {"config", "artifacts", "tracking", "draws", "transfer", "figures", "loopback"},
)
"""Top to bottom, as in the design: a row imports from rows below, not sideways."""
SIDEWAYS = {("cli", "bench"), ("cli", "ui"), ("export", "evaluation")}
"""The command line starts the other two faces. What quantising costs is told by the evaluation's own measures."""
FOR_ALL = "config"
"""The base of every section's configuration: importable within its own row too."""
HOUSE = ("flows", "tasks", "ddlm")
ORCHESTRATION = {"prefect", "fabric", "invoke"}
HEAVY = {"torch", "mlflow", "datasets", "matplotlib", "onnx", "onnxruntime", "pandas", "gradio"}


def level(name: str) -> int:
    return next(index for index, row in enumerate(ROWS) if name in row)


def is_allowed(module: str, imported: str) -> bool:
    """Whether a module of the house may import another one."""
    room, other = module.partition(".")[0], imported.partition(".")[0]
    if room != other:
        return HOUSE.index(room) < HOUSE.index(other)
    if room != "ddlm" or imported.count(".") == 0 or module.count(".") == 0:
        return True
    here, there = module.split(".")[1], imported.split(".")[1]
    return here == there or there == FOR_ALL or (here, there) in SIDEWAYS or level(here) < level(there)


def sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Every module below the folders: its dotted name and its syntax tree."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, ast.parse(path.read_bytes())


def imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names, also of imports inside functions. `from ddlm import draws` counts as ddlm.draws."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            below = [name for row in ROWS for name in row] if module == "ddlm" else []
            yield from (f"ddlm.{alias.name}" for alias in node.names if alias.name in below)
            yield module


def test_imports_point_down() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, tree in sources(*HOUSE)
        for imported in imports(tree)
        if imported.partition(".")[0] in HOUSE and not is_allowed(module, imported)
    ]
    assert not wrong


def test_no_relative_import_hides_who_imports_whom() -> None:
    assert not [name for name, tree in sources(*HOUSE) for other in imports(tree) if other.startswith(".")]


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("ddlm.model.attention", "ddlm.diffusion.noise"),
        ("ddlm.diffusion", "ddlm.model"),
        ("ddlm.tracking", "ddlm.artifacts"),
        ("ddlm.generation", "ddlm.evaluation.text"),
        ("ddlm.data.shards", "ddlm.experiment"),
        ("ddlm.bench.load", "ddlm.cli"),
        ("ddlm.export", "ddlm.rendering"),
        ("ddlm.training.loop", "tasks.train"),
        ("tasks.train", "flows.full_pipeline"),
    ],
)
def test_a_forbidden_import_is_seen(module: str, imported: str) -> None:
    assert not is_allowed(module, imported)


def test_every_module_of_the_library_stands_in_a_row() -> None:
    known = {name for row in ROWS for name in row}
    found = {path.stem for path in (ROOT / "ddlm").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - {"__init__"} <= known


def test_the_library_knows_no_orchestrator() -> None:
    wrong = [name for name, tree in sources("ddlm") for other in imports(tree) if other.split(".")[0] in ORCHESTRATION]
    assert not wrong


def test_nobody_imports_the_infrastructure() -> None:
    everything = sources("ddlm", "flows", "tasks", "tests", "benchmarks")
    assert not [name for name, tree in everything for other in imports(tree) if other.split(".")[0] == "infra"]


def test_every_package_is_listed_for_installation() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = [path.parent.relative_to(ROOT) for room in HOUSE for path in (ROOT / room).rglob("__init__.py")]
    found = {".".join(folder.parts) for folder in folders}
    assert listed == found


@pytest.mark.parametrize("module", ["ddlm.cli", "flows.full_pipeline", "flows.retrain", "flows.command"])
def test_importing_an_entry_loads_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_the_command_is_importable_without_prefect() -> None:
    program = "import sys, flows.command; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "prefect" not in done.stdout.split()
