"""Pipelines of untrained networks with strong opinions, in float32."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ddlm.generation import DiffusionPipeline
from ddlm.model import ModelConfig
from ddlm.model.folder import ModelFolder
from ddlm.model.transformer import Denoiser
from ddlm.tokenizer import MASK, Tokenizer, TokenizerConfig, train_bpe

Build = Callable[..., DiffusionPipeline]
STORIES = ["Once upon a time there was a little dog. He ran to the park and saw a big red ball. They were happy."] * 20
SEQ_LEN = 48


def tokenizer_of(*, chat: bool) -> Tokenizer:
    backend = train_bpe([STORIES], TokenizerConfig(vocab_size=300, min_frequency=1, chat=chat))
    backend.add_special_tokens([MASK])
    return Tokenizer(backend)


@pytest.fixture
def build() -> Build:
    def make(
        *, chat: bool = False, layout: str = "story", precision: str = "float32", **model: object
    ) -> DiffusionPipeline:
        tokenizer = tokenizer_of(chat=chat)
        config = ModelConfig(**{"d_model": 32, "num_layers": 2, "num_heads": 2, **model})  # type: ignore[arg-type]
        torch.manual_seed(0)
        network = Denoiser(config, vocab_size=tokenizer.vocab_size, seq_len=SEQ_LEN, end_id=tokenizer.end_id).eval()
        with torch.no_grad():
            for weight in network.parameters():
                if weight.dim() == 2:
                    weight.normal_(std=1.5 * weight.shape[1] ** -0.5)
        folder = ModelFolder.of(network, end_id=tokenizer.end_id, objective={}, layout=layout)  # type: ignore[arg-type]
        return DiffusionPipeline(network, tokenizer, folder, precision)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> DiffusionPipeline:
    return DiffusionPipeline.from_pretrained(tiny_model, precision="float32")
