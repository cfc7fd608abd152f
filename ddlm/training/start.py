"""Where a run starts: its own newest checkpoint, another run's, a model's weights, or from nothing."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from ddlm.config import UserError
from ddlm.model.device import has_bfloat16, pick_precision
from ddlm.model.source import WEIGHTS
from ddlm.model.transformer import Denoiser
from ddlm.training import TrainingConfig, checkpoint
from ddlm.training.distributed import Ranks, like
from ddlm.training.sources import weights_of
from ddlm.training.state import TrainState

logger = logging.getLogger(__name__)


def from_where(training: TrainingConfig, scratch: Path) -> Path | None:
    """The checkpoint to go on from: the newest own one, else the one to resume from, else none."""
    return checkpoint.newest(scratch) or (Path(training.resume_from) if training.resume_from else None)


def settled(training: TrainingConfig, begun: Path | None, device: torch.device, ranks: Ranks) -> TrainingConfig:
    """The section with its precision decided: the one in which the run began, else the first rank's pick.

    Timed anew, `auto` could end a run in another precision than it began in, and with other bits.
    """
    if training.precision != "auto":
        return training
    precision = checkpoint.state_of(begun).get("precision") if begun else None
    if precision == "bfloat16" and not has_bfloat16(device):
        logger.warning("%s was trained in bfloat16, which this %s doesn't multiply: float32 from here", begun, device)
        precision = "float32"
    is_half = ranks.is_first and (precision or pick_precision("auto", device)) == "bfloat16"
    (of_the_first,) = ranks.highest(float(is_half))
    return training.model_copy(update={"precision": "bfloat16" if of_the_first else "float32"})


def start(state: TrainState, training: TrainingConfig, begun: Path | None, ranks: Ranks) -> None:
    """From the checkpoint where there is one, else from given weights, else from the initial ones."""
    if begun:
        if begun == Path(training.resume_from or ""):
            _require_same_run(begun, checkpoint.state_of(begun)["identity"], state.identity)
        state.restore(begun, ranks)
    elif training.init_from:
        _take_weights(state.model, weights_of(training.init_from).parent)
        state.is_past_start = True


def _require_same_run(path: Path, saved: Mapping[str, object], own: Mapping[str, object]) -> None:
    own = json.loads(json.dumps(own))  # tuples become lists, as in the checkpoint
    changed = sorted(key for key in own.keys() | saved.keys() if own.get(key) != saved.get(key))
    if changed:
        raise UserError(
            f"training.resume_from {path}: {', '.join(changed)} differ from the checkpoint's; only training.steps "
            "and execution-only fields may; training.init_from starts another experiment from weights"
        )


def _take_weights(model: Denoiser, folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    wanted = {name: tuple(value.shape) for name, value in model.named_parameters()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if wrong:
        name = wrong[0]
        reason = f"{name}: got {given.get(name, 'nothing')}, wanted {wanted.get(name, 'nothing')}"
        raise UserError(
            f"training.init_from {folder}: weights do not fit this model ({reason}); use its [model] and vocabulary"
        )
    for name, parameter in model.named_parameters():
        parameter.data.copy_(like(parameter, weights[name]))
