"""What training starts from, besides its inputs. Imports nothing heavy."""

import os
from pathlib import Path

from ddlm.artifacts import sha256_file
from ddlm.config import UserError
from ddlm.diffusion import ObjectiveConfig
from ddlm.model import ModelConfig
from ddlm.model.source import WEIGHTS, find_folder
from ddlm.training import TrainingConfig


def resolve(model: ModelConfig, objective: ObjectiveConfig, training: TrainingConfig) -> dict[str, str]:
    """Digests of the weights or the checkpoint. Raises: UserError for a model or checkpoint that is not there."""
    del model, objective
    digests = {}
    if training.init_from:
        digests["init_from"] = sha256_file(weights_of(training.init_from))
    if training.resume_from:
        path = Path(training.resume_from) / WEIGHTS
        if not path.is_file():
            raise UserError(f"training.resume_from {path.parent}: no {WEIGHTS} in it; give a checkpoint's folder")
        digests["resume_from"] = sha256_file(path)
    return digests


def require(model: ModelConfig, objective: ObjectiveConfig, training: TrainingConfig) -> None:
    """Raises: UserError for a network whose blocks alone, in the float32 that every run begins with, exceed memory."""
    del objective, training
    wanted, memory = (
        4 * model.num_layers * model.block_matrices,
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    )
    if wanted > memory:
        raise UserError(
            f"model: the weights of {model.num_layers} layers of width {model.d_model} take {wanted / 1e9:,.0f} GB, "
            f"and this machine has {memory / 1e9:,.0f} GB of memory; take a smaller model.d_model or model.num_layers"
        )


def weights_of(model: str) -> Path:
    """The weights of the MODEL that training.init_from names. Raises: UserError when it names nothing."""
    try:
        path = find_folder(model) / WEIGHTS
    except UserError as error:
        raise UserError(f"training.init_from: {error}") from None
    if not path.is_file():
        raise UserError(f"training.init_from {model}: no {WEIGHTS} in it; give a MODEL")
    return path
