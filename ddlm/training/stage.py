"""The train stage: shards and a tokenizer in, a model folder and its training curve out."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ddlm.artifacts import Workspace, digest_of
from ddlm.config import UserError
from ddlm.data.loader import TokenLoader
from ddlm.data.shards import read_rows
from ddlm.diffusion import ObjectiveConfig
from ddlm.evaluation.likelihood import bound
from ddlm.model import ModelConfig
from ddlm.model.device import pick_device, uses_bfloat16
from ddlm.model.folder import ModelFolder
from ddlm.model.transformer import Denoiser
from ddlm.tokenizer import Tokenizer
from ddlm.training import TrainingConfig, checkpoint
from ddlm.training.loop import Metrics, Trainer, TrainState, new_state

VALIDATION_ROWS, VALIDATION_MASKS = 64, 4
"""Enough to see the curve; the evaluate stage measures properly."""
CURVE_COLUMNS = ("step", "train/nll_nats", "val/nll_nats", "train/lr", "train/grad_norm")


def build(
    workspace: Workspace,
    *,
    seed: int,
    model: ModelConfig,
    objective: ObjectiveConfig,
    training: TrainingConfig,
    source: dict[str, str],
) -> None:
    """Train, resuming from the newest whole checkpoint in the scratch folder, and write the model folder."""
    del source
    torch.set_num_threads(training.threads or torch.get_num_threads())
    rows = json.loads((workspace.inputs["shards"] / "rows.json").read_text())
    tokenizer = Tokenizer.load(workspace.inputs["tokenizer"])
    device = pick_device(training.device)
    torch.manual_seed(seed)
    denoiser = Denoiser(model, vocab_size=tokenizer.vocab_size, seq_len=rows["seq_len"]).to(device)
    identity = _identity(workspace, seed, model, objective, training)
    state = new_state(denoiser, training, identity)
    _start(state, training, workspace.scratch)
    trainer = Trainer(
        config=training, objective=objective, seed=seed, device=device, run=workspace.run, end_id=tokenizer.end_id,
        loader=TokenLoader(workspace.inputs["shards"], "train", training.batch_size, seed, workspace.scratch),
        autocast=uses_bfloat16(training.precision, device), checkpoints=workspace.scratch,
        validate=_validator(workspace.inputs["shards"], tokenizer.mask_id, seed, device),
    )  # fmt: skip
    trainer.train(state)
    _write(workspace.output, state, tokenizer, objective)


def _start(state: TrainState, training: TrainingConfig, scratch: Path) -> None:
    """The newest own checkpoint, else the one to resume from, else given weights, else the initial ones."""
    own = checkpoint.newest(scratch)
    if own:
        state.restore(own)
    elif training.resume_from:
        path = Path(training.resume_from)
        _, saved = checkpoint.load(path)
        changed = [name for name in state.identity if saved["identity"].get(name) != state.identity[name]]
        if changed:
            raise UserError(
                f"training.resume_from {path}: {', '.join(changed)} differ from the checkpoint's; only training.steps "
                "and execution-only fields may; training.init_from starts another experiment from weights"
            )
        state.restore(path)
    elif training.init_from:
        _take_weights(state.model, Path(training.init_from))


def _take_weights(model: Denoiser, folder: Path) -> None:
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"training.init_from {folder}: weights do not fit this model ({reason}); use its [model]"
        ) from None


def _identity(
    workspace: Workspace, seed: int, model: ModelConfig, objective: ObjectiveConfig, training: TrainingConfig
) -> dict[str, object]:
    """What may not change when a checkpoint is continued, by section."""
    free = {"steps", "max_minutes", "init_from", "resume_from"}
    return {
        "seed": seed,
        "model": model.keyed(),
        "objective": objective.keyed(),
        "training": {key: value for key, value in training.keyed().items() if key not in free},
        "shards": digest_of((workspace.inputs["shards"] / "manifest.json").read_text()),
    }


def _validator(folder: Path, mask_id: int, seed: int, device: torch.device) -> Callable[[Denoiser], Metrics]:
    """Measures the bound on the first validation rows, always with the same masks."""
    rows = read_rows(folder, "validation", limit=VALIDATION_ROWS)

    def validate(model: Denoiser) -> Metrics:
        model.eval()
        value = bound(model, rows, mask_id=mask_id, masks_per_row=VALIDATION_MASKS, seed=seed, device=device)
        model.train()
        return {"val/nll_nats": value.nll_nats, "val/bits_per_byte": value.bits_per_byte}

    return validate


def _write(folder: Path, state: TrainState, tokenizer: Tokenizer, objective: ObjectiveConfig) -> None:
    weights = {name: value.detach().cpu().contiguous() for name, value in state.final_weights().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(folder)
    ModelFolder.of(state.model, end_id=tokenizer.end_id, objective=objective.model_dump(mode="json")).write(folder)
    with (folder / "curve.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, CURVE_COLUMNS, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(state.curve)
