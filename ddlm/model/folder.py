"""A model folder's `config.json`: enough to rebuild the network; and reading its weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddlm.config import Section, UserError, parse
from ddlm.model import ModelConfig, require_causal
from ddlm.model.source import CONFIG, WEIGHTS, require_files
from ddlm.model.transformer import Denoiser

FORMAT_VERSION = 3
"""2: activation, soft cap, time and attention are in the architecture. 3: the rows' layout. Older folders have the
defaults of what they lack."""


class ModelFolder(Section):
    """The content of `config.json`."""

    format_version: int = FORMAT_VERSION
    model_type: str = "ddlm"
    vocab_size: int = Field(ge=2)
    seq_len: int = Field(ge=1)
    end_id: int = Field(ge=0)
    mask_id: int = Field(ge=2)
    layout: Literal["story", "packed"] = "story"
    """Of the rows that it was trained on: behind a story's end its row is full of end tokens, or of other stories."""
    architecture: ModelConfig
    objective: dict[str, Any]

    @model_validator(mode="after")
    def _the_twin_sees_no_future(self) -> "ModelFolder":
        require_causal(self.architecture, self.is_autoregressive)
        return self

    @property
    def is_autoregressive(self) -> bool:
        return self.objective.get("kind") == "autoregressive"

    @classmethod
    def of(
        cls, model: Denoiser, *, end_id: int, objective: dict[str, Any], layout: Literal["story", "packed"] = "story"
    ) -> "ModelFolder":
        return cls(
            vocab_size=model.vocab_size, seq_len=model.seq_len, end_id=end_id, mask_id=model.vocab_size, layout=layout,
            architecture=model.config, objective=objective,
        )  # fmt: skip

    def write(self, folder: Path) -> None:
        (folder / CONFIG).write_text(json.dumps(self.model_dump(mode="json", exclude_none=True), indent=2) + "\n")


def save_weights(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write model.safetensors. Raises: UserError for values without sense."""
    broken = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if broken:
        raise UserError(
            f"model: {len(broken)} of {len(tensors)} weights, {broken[0]} first, are not finite; "
            "lower training.learning_rate, or give training.warmup_steps more steps"
        )
    save_tensors(tensors, folder / WEIGHTS)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file, as readable for others as its neighbours."""
    path.touch()
    mode = path.stat().st_mode  # the library would take away what the user's umask allows
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, path, metadata={"format": "pt"})
    path.chmod(mode)


def read_folder(folder: Path) -> ModelFolder:
    """Raises: UserError when a file is missing, is a pickle, or config.json can't be used."""
    if not folder.is_dir():
        raise UserError(f"model {folder}: no such folder; give a model folder, an experiment's name or a hub id")
    require_files(folder)
    try:
        document = json.loads((folder / CONFIG).read_bytes())
    except ValueError as error:
        raise UserError(f"model {folder}: {CONFIG} is not JSON ({error}); copy it again") from None
    version = document.get("format_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(f"model {folder}: format_version {version}, wanted at most {FORMAT_VERSION}; update ddlm")
    return parse(ModelFolder, document, source=str(folder / CONFIG))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Raises: UserError when the file is truncated or is no safetensors file."""
    path = folder / WEIGHTS
    try:
        weights: dict[str, Tensor] = load_file(path)
        return weights
    except SafetensorError as error:
        pickled = path.read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x04")
        kind = "a pickle, which ddlm never loads" if pickled else "truncated or damaged"
        raise UserError(f"model {path}: not a whole safetensors file, {kind} ({error}); copy it again") from None


def load_model(folder: Path) -> tuple[Denoiser, ModelFolder]:
    """The network in evaluation mode on the CPU, in float32. Raises: UserError as the readers above do."""
    config = read_folder(folder)
    sizes = {"vocab_size": config.vocab_size, "seq_len": config.seq_len}
    model = Denoiser(config.architecture, **sizes, end_id=config.end_id, is_autoregressive=config.is_autoregressive)
    try:
        model.load_state_dict(read_weights(folder))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"model {folder}: weights and {CONFIG} disagree ({reason}); copy both from one model") from None
    return model.eval(), config
