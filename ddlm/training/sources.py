"""What training starts from, besides its inputs. Imports nothing heavy."""

from pathlib import Path

from ddlm.artifacts import sha256_file
from ddlm.config import UserError
from ddlm.diffusion import ObjectiveConfig
from ddlm.model import ModelConfig
from ddlm.training import TrainingConfig


def resolve(model: ModelConfig, objective: ObjectiveConfig, training: TrainingConfig) -> dict[str, str]:
    """Digests of the weights or the checkpoint. Raises: UserError for a folder without weights."""
    del model, objective
    starts = {"init_from": training.init_from, "resume_from": training.resume_from}
    return {name: _digest(name, folder) for name, folder in starts.items() if folder}


def _digest(key: str, folder: str) -> str:
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise UserError(f"training.{key} {folder}: no model.safetensors in it; give an existing folder")
    return sha256_file(path)
