"""A model folder: what is written is read back, folders of earlier versions load, broken ones are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ddlm.config import UserError
from ddlm.model.folder import FORMAT_VERSION, ModelFolder, load_model, read_folder
from ddlm.model.source import CONFIG
from ddlm.model.transformer import Denoiser

Build = Callable[..., Denoiser]
IDS = torch.arange(16)[None] * 3
FIRST_VERSION = {
    "format_version": 1,
    "model_type": "ddlm",
    "vocab_size": 50,
    "seq_len": 16,
    "end_id": 0,
    "mask_id": 50,
    "architecture": {
        "d_model": 32, "num_layers": 2, "num_heads": 2, "dropout": 0.0, "rope_theta": 10000.0, "tied_head": False,
    },
    "objective": {"schedule": "linear", "weighting": "bound"},
}  # fmt: skip


def write(folder: Path, model: Denoiser) -> Path:
    ModelFolder.of(model, end_id=0, objective={}).write(folder)
    save_file(model.state_dict(), folder / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).touch()
    return folder


OPTIONS: list[dict[str, Any]] = [
    {"activation": "relu2", "logit_soft_cap": 0.3, "time_conditioning": True, "segment_mask": True},
    {"attention": "block_causal", "block_size": 4, "tied_head": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_network_comes_back_from_its_folder_with_every_option(
    options: dict[str, Any], tmp_path: Path, build: Build
) -> None:
    model = build(**options)
    loaded, config = load_model(write(tmp_path, model))
    assert config.architecture == model.config
    assert torch.equal(loaded(IDS), model(IDS))


def test_a_folder_of_the_first_version_still_loads(tmp_path: Path, build: Build) -> None:
    model = build()
    write(tmp_path, model)
    (tmp_path / CONFIG).write_text(json.dumps(FIRST_VERSION))
    loaded, _ = load_model(tmp_path)
    assert torch.equal(loaded(IDS), model(IDS))


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({**FIRST_VERSION, "format_version": FORMAT_VERSION + 1}, f"wanted at most {FORMAT_VERSION}; update ddlm"),
        ({**FIRST_VERSION, "architecture": {"depth": 3}}, "unknown key architecture.depth; allowed here: activation"),
        ({**FIRST_VERSION, "architecture": {"attention": "causal", "block_size": 2}}, "architecture: block_size 2"),
        ([], "the file: Input should be an object"),
    ],
)
def test_a_config_that_can_not_be_used_is_refused(document: Any, line: str, tmp_path: Path, build: Build) -> None:
    write(tmp_path, build())
    (tmp_path / CONFIG).write_text(json.dumps(document))
    with pytest.raises(UserError, match=line):
        read_folder(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path, build: Build) -> None:
    write(tmp_path, build())
    ModelFolder.of(build(activation="relu2"), end_id=0, objective={}).write(tmp_path)
    with pytest.raises(UserError, match=r"weights and config\.json disagree"):
        load_model(tmp_path)
