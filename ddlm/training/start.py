"""Where a run starts: its own newest checkpoint, another run's, a model's weights, or from nothing."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from ddlm.config import UserError
from ddlm.model.transformer import Denoiser
from ddlm.training import TrainingConfig, checkpoint
from ddlm.training.distributed import Ranks, like
from ddlm.training.state import TrainState


def start(state: TrainState, training: TrainingConfig, scratch: Path, ranks: Ranks) -> None:
    """The newest own checkpoint, else the one to resume from, else given weights, else the initial ones."""
    own = checkpoint.newest(scratch)
    if own:
        state.restore(own, ranks)
    elif training.resume_from:
        path = Path(training.resume_from)
        _require_same_run(path, checkpoint.load(path)[1]["identity"], state.identity)
        state.restore(path, ranks)
    elif training.init_from:
        _take_weights(state.model, Path(training.init_from))


def _require_same_run(path: Path, saved: Mapping[str, object], own: Mapping[str, object]) -> None:
    own = json.loads(json.dumps(own))  # tuples become lists, as in the checkpoint
    changed = sorted(key for key in own.keys() | saved.keys() if own.get(key) != saved.get(key))
    if changed:
        raise UserError(
            f"training.resume_from {path}: {', '.join(changed)} differ from the checkpoint's; only training.steps "
            "and execution-only fields may; training.init_from starts another experiment from weights"
        )


def _take_weights(model: Denoiser, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
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
