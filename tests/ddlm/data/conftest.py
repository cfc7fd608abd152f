"""Workspaces for single stages, and a small corpus with what makes text hard."""

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ddlm.artifacts import Workspace
from ddlm.tokenizer import Tokenizer, TokenizerConfig
from ddlm.tokenizer import build as build_tokenizer

STORIES = [
    "Tom had a red ball.\nHe ran to the big tree.",
    "“Look,” said Mia, “a café!” It was 5 o’clock.",
    "A typed <|endoftext|> and a <|mask|> are only words.",
    "The cat sat. " * 40 + "The end.",
    "Ünïcödé 日本語 🙂 e\u0301 \ufb01",
    "Hi.",
    *(f"Day {number}: the little dog saw {number} birds and was happy." for number in range(20)),
]


@pytest.fixture
def workspace(tmp_path: Path, recorder: Any) -> Callable[..., Workspace]:
    """Makes a workspace with an empty output folder: `workspace(corpus=folder)`."""
    numbers = count()

    def make(**inputs: Path) -> Workspace:
        output, scratch = (tmp_path / f"{kind}-{next(numbers)}" for kind in ("output", "scratch"))
        output.mkdir()
        scratch.mkdir()
        return Workspace(inputs, output, scratch, recorder)

    return make


@pytest.fixture
def write_corpus(tmp_path: Path) -> Callable[..., Path]:
    """Makes a corpus artifact of the given train and validation stories."""
    numbers = count()

    def write(train: Sequence[str], validation: Sequence[str] = ("The end of the day.",)) -> Path:
        folder = tmp_path / f"corpus-{next(numbers)}"
        folder.mkdir()
        for split, texts in (("train", train), ("validation", validation)):
            parquet.write_table(pa.table({"text": list(texts)}), folder / f"{split}.parquet")
        return folder

    return write


@pytest.fixture
def corpus(write_corpus: Callable[..., Path]) -> Path:
    return write_corpus(STORIES, ["A bird sat in a tree.", "日本 <|endoftext|> " * 30 + "end"])


@pytest.fixture
def make_tokenizer(workspace: Callable[..., Workspace], corpus: Path) -> Callable[..., Path]:
    """Builds a tokenizer artifact on the small corpus."""

    def make(**config: Any) -> Path:
        room = workspace(corpus=corpus)
        build_tokenizer(room, tokenizer=TokenizerConfig(**{"vocab_size": 300, **config}), source=None)
        return room.output

    return make


@pytest.fixture
def tokenizer(make_tokenizer: Callable[..., Path]) -> Tokenizer:
    return Tokenizer.load(make_tokenizer())
