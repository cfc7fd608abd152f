"""The measure that the training benchmarks share."""

import math
from pathlib import Path

import pytest
import torch

from ddlm.data import ShardsConfig
from ddlm.data.corpus import read_source
from ddlm.diffusion.view import everywhere
from ddlm.tokenizer import MASK, Tokenizer, TokenizerConfig, train_bpe

ROOT = Path(__file__).parents[2]


def test_a_uniform_model_costs_the_logarithm_of_its_vocabulary_a_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import scoring

    stories = read_source(ROOT / "ddlm" / "data" / "sample.parquet", 40)[:3]
    backend = train_bpe([stories], TokenizerConfig(vocab_size=300))
    backend.add_special_tokens([MASK])
    tokenizer = Tokenizer(backend)
    uniform = everywhere(lambda ids: torch.zeros(*ids.shape, tokenizer.vocab_size))
    found = scoring.score(uniform, stories, tokenizer, ShardsConfig(seq_len=32), masks_per_row=2)
    nats = found["bits_per_byte"] * found["text_bytes"] * math.log(2)
    assert nats == pytest.approx(found["rows"] * 32 * math.log(tokenizer.vocab_size), rel=1e-5)
    assert found["stories"] == 3
