"""A judge of a few thousand weights, made by transformers on the spot."""

from pathlib import Path

import pytest

WORDS = "Once upon a time there was a little fox who had a red ball. The fox ran to the park and saw a big dog."
BEGIN = "<s>"
CONTEXT_TOKENS = 24


def build_judge(folder: Path, *, begin: str | None) -> Path:
    """A causal model with random weights and its byte-level tokenizer."""
    transformers = pytest.importorskip("transformers")
    import torch
    from tokenizers import ByteLevelBPETokenizer

    byte_pairs = ByteLevelBPETokenizer()
    byte_pairs.train_from_iterator([WORDS], vocab_size=300, special_tokens=[BEGIN], show_progress=False)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_pairs._tokenizer, bos_token=begin)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=CONTEXT_TOKENS, initializer_range=0.5, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_judge(tmp_path_factory.mktemp("judge") / "tiny-judge", begin=BEGIN)


@pytest.fixture(scope="session")
def judge_folder_without_begin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_judge(tmp_path_factory.mktemp("judge") / "no-begin", begin=None)
