"""The train stage: shards and a tokenizer in, a model folder and its training curve out."""

import csv
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddlm.artifacts import RunLog, Unlogged, Workspace, digest_of
from ddlm.config import UserError
from ddlm.data.loader import TokenLoader
from ddlm.data.shards import read_manifest
from ddlm.diffusion import ObjectiveConfig
from ddlm.diffusion.objective import weighting_of
from ddlm.model import ModelConfig
from ddlm.model.device import COMPILE_FLOPS, lacks_compiler, pick_device, threads
from ddlm.model.folder import ModelFolder, save_weights
from ddlm.model.transformer import Denoiser
from ddlm.tokenizer import Tokenizer
from ddlm.training import TrainingConfig, checkpoint
from ddlm.training.distributed import Ranks, group, joined, meeting_place, wrapped
from ddlm.training.loop import Trainer
from ddlm.training.profiling import region
from ddlm.training.reports import CURVE, Reporter
from ddlm.training.start import from_where, settled, start
from ddlm.training.state import TrainState, new_state
from ddlm.training.step import MaskedLoss
from ddlm.training.utilisation import matrix_flops_per_s
from ddlm.training.validation import Validator

COMPILE_MINUTES = 2


@dataclass(frozen=True)
class Job:
    """What every rank is told."""

    tokenizer_folder: Path
    shards_folder: Path
    scratch: Path
    seed: int
    model: ModelConfig
    objective: ObjectiveConfig
    training: TrainingConfig

    @property
    def identity(self) -> dict[str, object]:
        """What may not change when a checkpoint is continued, by key."""
        free = {"steps", "max_minutes", "init_from", "resume_from"}
        sections = {"model": self.model, "objective": self.objective, "training": self.training}
        keys = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.keyed().items()}
        identity: dict[str, object] = {
            key: keys[key] for key in keys if key not in {f"training.{name}" for name in free}
        }
        return identity | {"seed": self.seed, "shards": digest_of((self.shards_folder / "manifest.json").read_text())}


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
    inputs = workspace.inputs
    job = Job(inputs["tokenizer"], inputs["shards"], workspace.scratch, seed, model, objective, training)
    with joined(pick_device(training.device), training.processes, follow, job) as ranks:
        state, weights = train(job, ranks, workspace.run)
    _write(workspace.output, job, state, weights)


def follow(index: int, port: int, job: Job) -> None:
    """What the ranks behind the first one run."""
    device, store = pick_device(job.training.device), meeting_place(port)
    with group(device, index, job.training.processes, store) as ranks:
        train(job, ranks, Unlogged())


def train(job: Job, ranks: Ranks, run: RunLog) -> tuple[TrainState, Mapping[str, Tensor]]:
    """One rank's training. Returns the final state and the weights to ship."""
    manifest = read_manifest(job.shards_folder)
    _require_enough_rows(manifest["splits"]["train"]["rows"], job.training.batch_size)
    tokenizer = Tokenizer.load(job.tokenizer_folder)
    begun, device = from_where(job.training, job.scratch), pick_device(job.training.device)
    training = settled(job.training, begun, device, ranks)
    torch.manual_seed(job.seed)
    denoiser = prepared(
        Denoiser(
            job.model, vocab_size=tokenizer.vocab_size, seq_len=manifest["seq_len"], end_id=tokenizer.end_id,
            is_autoregressive=job.objective.is_autoregressive,
        ),
        training,
        device,
    )  # fmt: skip
    network = wrapped(MaskedLoss(denoiser), denoiser.blocks, ranks, training.sharding)
    state = new_state(denoiser, training, job.identity, ranks)
    start(state, training, begun, ranks)
    # Named, not imported: what it draws can't change the weights, so its code is no part of this stage's fingerprint.
    preview = import_module("ddlm.training.preview").Preview(
        job.scratch, job.shards_folder, tokenizer, job.seed, ranks, run
    )
    trainer = Trainer(
        config=training, objective=job.objective, network=network, end_id=tokenizer.end_id, seed=job.seed,
        loader=TokenLoader(
            job.shards_folder, "train", training.batch_size, job.seed, job.scratch, ranks.index, ranks.count
        ),
        device=device, ranks=ranks, region=region if training.profile else nullcontext,
        validate=Validator(job.shards_folder, denoiser, job.seed, ranks, device), preview=preview,
        writer=checkpoint.Writer(job.scratch, training.keep_checkpoints),
        reporter=_reporter(job, training, ranks, run, manifest, denoiser),
    )  # fmt: skip
    with threads(training.threads or max(1, torch.get_num_threads() // training.processes)), _memory_named(training):
        trainer.train(state)
    return state, shipped(state, training, job.scratch)


def prepared(denoiser: Denoiser, training: TrainingConfig, device: torch.device) -> Denoiser:
    """The network as it trains: on its device, checkpointed and compiled as the run asks."""
    denoiser = denoiser.to(device)
    denoiser.checkpointing = training.checkpoint_activations
    if compiles(denoiser, training, device):
        denoiser.compile_blocks()
    return denoiser


def compiles(denoiser: Denoiser, training: TrainingConfig, device: torch.device) -> bool:
    """Whether the blocks are compiled. `auto` decides by the run's size alone, so that a resumed run decides alike.

    Raises: UserError when compiling is asked for and can't work.
    """
    wanted, missing = training.compile, lacks_compiler()
    if wanted == "on" and missing:
        raise UserError(f"training.compile on: {missing}, or set off")
    seq_len = denoiser.seq_len
    flops = denoiser.train_flops_per_token() * training.steps * training.batch_size * seq_len
    is_long = flops >= COMPILE_FLOPS[device.type] and (training.max_minutes or math.inf) >= COMPILE_MINUTES
    return not missing and (wanted == "on" or (wanted == "auto" and is_long))


def _reporter(
    job: Job, training: TrainingConfig, ranks: Ranks, run: RunLog, manifest: Mapping[str, Any], denoiser: Denoiser
) -> Reporter:
    rows, device = manifest["splits"]["train"], denoiser.embedding.weight.device
    return Reporter(
        run=run, config=training, ranks=ranks, objective=weighting_of(job.objective).metric,
        seq_len=denoiser.seq_len, tokens_per_byte=rows["text_tokens"] / rows["text_bytes"],
        flops_per_token=denoiser.train_flops_per_token(),
        matrix_flops_per_s=ranks.count * matrix_flops_per_s(device, getattr(torch, training.precision)),
        trace=job.scratch / "profile" if training.profile else None,
    )  # fmt: skip


def _require_enough_rows(rows: int, batch_size: int) -> None:
    if rows < batch_size:
        raise UserError(
            f"training.batch_size {batch_size}: the training data has {rows} rows; take a smaller batch or more stories"
        )


@contextmanager
def _memory_named(training: TrainingConfig) -> Iterator[None]:
    """Out of memory, in a line that says what to change."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("out of memory|can't allocate memory", str(error)):
            raise
        rows = training.batch_size // training.accumulation // training.processes
        raise UserError(
            f"training: out of memory with {rows} rows at a time (training.batch_size {training.batch_size}, "
            f"accumulation {training.accumulation}); set training.accumulation={2 * training.accumulation}, "
            "or training.checkpoint_activations=true"
        ) from None


def shipped(state: TrainState, training: TrainingConfig, scratch: Path) -> Mapping[str, Tensor]:
    """The last weights; under patience the best."""
    best = checkpoint.best(scratch) if training.patience else None
    if best is None:
        return state.weights()
    tensors, _ = checkpoint.load(best)
    return tensors.get("ema", tensors["model"])


def _write(folder: Path, job: Job, state: TrainState, weights: Mapping[str, Tensor]) -> None:
    save_weights(weights, folder)
    tokenizer = Tokenizer.load(job.tokenizer_folder)
    tokenizer.save(folder)
    ModelFolder.of(
        state.model, end_id=tokenizer.end_id, objective=job.objective.model_dump(mode="json"),
        layout=read_manifest(job.shards_folder)["layout"],
    ).write(folder)  # fmt: skip
    with (folder / "curve.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, ("step", *CURVE), extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(state.curve)
