"""What reads a corpus must not end up holding it."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ddlm import tokenizer as tokenizer_module
from ddlm.data.corpus import SplitWriter, iterate_stories
from ddlm.data.shards import encode
from ddlm.data.sources import read_files
from ddlm.tokenizer import Tokenizer

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A train split of 16 MB that does not compress well, in row groups of half a megabyte."""
    folder = tmp_path_factory.mktemp("large")
    generator = random.Random(0)
    writer = SplitWriter(folder / "train.parquet")
    for _ in range(32 * 1024):
        writer.add(generator.randbytes(256).hex())
    writer.close()
    assert (folder / "train.parquet").stat().st_size > 7 * MEGABYTE
    return folder


def read_artifact(folder: Path, tokenizer: Tokenizer) -> Iterator[Any]:
    return iterate_stories(folder, "train")


def read_source(folder: Path, tokenizer: Tokenizer) -> Iterator[Any]:
    return read_files([folder / "train.parquet"], "text")


def train_tokenizer(folder: Path, tokenizer: Tokenizer) -> Iterator[Any]:
    return tokenizer_module._texts(folder, "train", None)


def encode_all(folder: Path, tokenizer: Tokenizer) -> Iterator[Any]:
    return encode(folder / "train.parquet", tokenizer, workers=1)


@pytest.mark.parametrize("read", [read_artifact, read_source, train_tokenizer, encode_all])
def test_reading_holds_a_few_row_groups_at_most(
    large: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, read: Callable[..., Iterator[Any]]
) -> None:
    monkeypatch.setattr(Tokenizer, "encode_stories", lambda self, texts: [[1]] * len(texts))
    before, most = pa.total_allocated_bytes(), 0
    for number, _ in enumerate(read(large, tokenizer)):
        if number % 32 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert most < 4 * MEGABYTE
