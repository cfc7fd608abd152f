"""Checkpoints: a folder of safetensors and JSON, sealed by a manifest; complete or ignored."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ddlm.artifacts import DamageError, check, seal, sync, write_atomically
from ddlm.config import UserError
from ddlm.model.folder import save_tensors

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
BEST = "best.json"

Tensors = Mapping[str, Mapping[str, Tensor]]
"""One safetensors file for each name."""


@dataclass
class Writer:
    """Writes checkpoints of one run in a thread of its own, one at a time, and drops all but the newest and the best.

    What a write raises is raised by the next call.
    """

    folder: Path
    keep: int
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "ddlm-checkpoint"))
    _pending: Future[Path] | None = None

    def save(self, step: int, tensors: Tensors, state: Mapping[str, Any], best_step: int | None) -> None:
        """Take a copy of the state as it is now, and write it behind the training's back."""
        self.wait()
        copies = {
            name: {key: value.to("cpu", copy=True) for key, value in file.items()} for name, file in tensors.items()
        }
        document = {"format_version": FORMAT_VERSION, "step": step, **state}
        self._pending = self._pool.submit(self._write, step, copies, json.dumps(document), best_step)

    def wait(self) -> None:
        """Raises: UserError when the last write failed; the checkpoints before it are whole."""
        if self._pending is None:
            return
        try:
            self._pending.result()
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"checkpoint in {self.folder}: can't be written ({reason}); those before it are whole: "
                "make room, run again, and training goes on from the newest"
            ) from None
        finally:
            self._pending = None

    def _write(self, step: int, tensors: Tensors, document: str, best_step: int | None) -> Path:
        path = write(self.folder, step, tensors, document)
        if best_step is not None:
            write_atomically(self.folder / BEST, json.dumps({"step": best_step}).encode())
        best_name = f"step-{best_step:08d}" if best_step is not None else ""
        for old in found(self.folder)[: -self.keep]:
            if old.name != best_name:
                shutil.rmtree(old)
        return path


def write(folder: Path, step: int, tensors: Tensors, document: str) -> Path:
    """Write `folder/step-…` under another name, seal it and rename it. What was there before stays whole."""
    path, temporary = folder / f"step-{step:08d}", folder / ".writing"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, values in tensors.items():
            save_tensors(values, temporary / f"{name}.safetensors")
        (temporary / "state.json").write_text(document)
        seal(temporary, "checkpoint")
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
        sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def found(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    return sorted(folder.glob("step-*"))


def best(folder: Path) -> Path | None:
    """The checkpoint with the best validation, if one is known and still whole."""
    try:
        step = json.loads((folder / BEST).read_bytes())["step"]
    except (OSError, ValueError):
        return None
    return newest_of([folder / f"step-{step:08d}"])


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint."""
    return newest_of(found(folder))


def newest_of(paths: Sequence[Path]) -> Path | None:
    """The last one that is whole; a damaged one is named in a warning and passed over."""
    for path in reversed(paths):
        try:
            check(path, verify=True)
        except DamageError as damage:
            logger.warning("checkpoint %s is damaged: %s; taking an older one", path.name, damage)
            continue
        return path
    return None


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors by file name and the state. Raises: UserError for a folder that is no whole checkpoint."""
    state = state_of(path)
    return {file.stem: load_file(file) for file in path.glob("*.safetensors")}, state


def state_of(path: Path) -> dict[str, Any]:
    """What a checkpoint says of its run, without the tensors. Raises: as `load`."""
    try:
        check(path, verify=True)
    except DamageError as damage:
        raise UserError(f"checkpoint {path}: {damage}; give another checkpoint folder") from None
    state: dict[str, Any] = json.loads((path / "state.json").read_text())
    if state["format_version"] != FORMAT_VERSION:
        remedy = (
            "training.init_from starts from its weights" if state["format_version"] < FORMAT_VERSION else "update ddlm"
        )
        raise UserError(
            f"checkpoint {path}: format_version {state['format_version']}, wanted {FORMAT_VERSION}; {remedy}"
        )
    return state
