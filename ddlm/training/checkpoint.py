"""Checkpoints: a folder of safetensors and JSON, sealed by a manifest; complete or ignored."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddlm.artifacts import DamageError, check, seal
from ddlm.config import UserError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
KEPT = 2


def save(folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Path:
    """Write `folder/step-…` under another name, seal and rename it, then drop all but the newest ones.

    tensors: one safetensors file for each name. state: JSON. A full disk leaves the older checkpoints as they were.
    """
    path, temporary = folder / f"step-{step:08d}", folder / ".writing"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, values in tensors.items():
            save_file({key: value.contiguous() for key, value in values.items()}, temporary / f"{name}.safetensors")
        document = {"format_version": FORMAT_VERSION, "step": step, **state}
        (temporary / "state.json").write_text(json.dumps(document))
        seal(temporary, "checkpoint")
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in found(folder)[:-KEPT]:
        shutil.rmtree(old)
    return path


def found(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    return sorted(folder.glob("step-*"))


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint; a damaged one is named in a warning and passed over."""
    for path in reversed(found(folder)):
        try:
            check(path, verify=True)
        except DamageError as damage:
            logger.warning("checkpoint %s is damaged: %s; taking an older one", path.name, damage)
            continue
        return path
    return None


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors by file name and the state. Raises: UserError for a folder that is no whole checkpoint."""
    try:
        check(path, verify=True)
    except DamageError as damage:
        raise UserError(f"checkpoint {path}: {damage}; give another checkpoint folder") from None
    state: dict[str, Any] = json.loads((path / "state.json").read_text())
    if state["format_version"] > FORMAT_VERSION:
        raise UserError(f"checkpoint {path}: format_version {state['format_version']}, wanted at most 1; update ddlm")
    return {file.stem: load_file(file) for file in path.glob("*.safetensors")}, state


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors, `<parameter number>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": torch.as_tensor(values[name]) for number, values in state.items() for name in values}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
