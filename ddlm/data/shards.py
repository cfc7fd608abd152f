"""The shards stage: a corpus as parquet files of fixed-length token rows, and reading them back."""

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ddlm.artifacts import Workspace
from ddlm.data import ShardsConfig
from ddlm.data.packing import LAYOUTS, Encoded, Encoder, Rows
from ddlm.data.progress import shown
from ddlm.tokenizer import Tokenizer

__all__ = ["Rows", "build", "iterate_rows", "pack", "read_manifest", "read_rows", "row_dtype"]

FORMAT_VERSION = 1
MANIFEST = "rows.json"
STORIES_AT_A_TIME = 256
TOKENS_PER_ROW_GROUP = 1 << 18


def build(workspace: Workspace, *, shards: ShardsConfig) -> None:
    """The shards stage: `pack` on its inputs."""
    pack(workspace.inputs["corpus"], Tokenizer.load(workspace.inputs["tokenizer"]), workspace.output, shards)


def pack(corpus: Path, tokenizer: Tokenizer, output: Path, shards: ShardsConfig) -> None:
    """Write `<split>-00000.parquet` … and rows.json. Equal input gives equal bytes; memory does not grow with it.

    Raises: UserError for characters that the tokenizer can't encode.
    """
    splits = {}
    for split in ("train", "validation"):
        batches = encode(corpus / f"{split}.parquet", tokenizer, shards.workers or os.cpu_count() or 1)
        writer = ShardWriter(output, split, tokenizer.vocab_size, shards)
        for rows in LAYOUTS[shards.layout](batches, shards.seq_len, tokenizer.end_id):
            writer.add(rows)
        splits[split] = writer.close()
    manifest = {
        "format_version": FORMAT_VERSION,
        "seq_len": shards.seq_len,
        "vocab_size": tokenizer.vocab_size,
        "end_id": tokenizer.end_id,
        "mask_id": tokenizer.mask_id,
        "layout": shards.layout,
        "dtype": row_dtype(tokenizer.vocab_size).name,
        "splits": splits,
    }
    (output / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def encode(corpus: Path, tokenizer: Tokenizer, workers: int) -> Iterator[Encoded]:
    """The stories of a parquet file in order, encoded by so many threads, a few batches ahead."""
    file = parquet.ParquetFile(corpus, pre_buffer=False)  # a pre-buffer would end up holding the whole file
    encoder = Encoder(tokenizer)
    batches = (batch.column("text").to_pylist() for batch in file.iter_batches(STORIES_AT_A_TIME, columns=["text"]))
    total = -(-file.metadata.num_rows // STORIES_AT_A_TIME)
    with one_thread_a_call(), ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Encoded]] = deque()
        for batch in shown(batches, f"encoding {corpus.stem}, batches", total):
            waiting.append(pool.submit(encoder, batch))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def one_thread_a_call() -> Iterator[None]:
    """Keep `tokenizers` from spreading one batch over threads: a batch a thread takes less time of every core."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


class ShardWriter:
    """Rows into files of `rows_per_shard`, in row groups whose borders do not depend on how the rows arrive."""

    def __init__(self, folder: Path, split: str, vocab_size: int, shards: ShardsConfig) -> None:
        self._folder, self._split, self._rows_per_shard = folder, split, shards.rows_per_shard
        self._group = max(1, TOKENS_PER_ROW_GROUP // shards.seq_len)
        self._dtype = row_dtype(vocab_size)
        self._schema = pa.schema(
            [
                pa.field("tokens", pa.list_(pa.from_numpy_dtype(self._dtype), shards.seq_len), nullable=False),
                pa.field("text_bytes", pa.uint32(), nullable=False),
                pa.field("text_tokens", pa.uint32(), nullable=False),
            ]
        )
        self._waiting: list[Rows] = []
        self._file: parquet.ParquetWriter | None = None
        self._in_file = 0
        self._counts = {"rows": 0, "tokens": 0, "text_tokens": 0, "text_bytes": 0}
        self._files: list[str] = []

    def add(self, rows: Rows) -> None:
        self._waiting.append(rows)
        while sum(map(len, self._waiting)) >= (size := self._next_group()):
            self._write(size)

    def close(self) -> dict[str, Any]:
        """Write what waits. Returns the split's entry of the manifest."""
        while left := sum(map(len, self._waiting)):
            self._write(min(left, self._next_group()))
        if self._file:
            self._file.close()
        return {**self._counts, "files": self._files}

    def _next_group(self) -> int:
        return min(self._group, self._rows_per_shard - self._in_file)

    def _write(self, size: int) -> None:
        waiting = Rows.join(self._waiting)
        rows, self._waiting = waiting[:size], [waiting[size:]]
        if self._file is None:
            self._files.append(f"{self._split}-{len(self._files):05d}.parquet")
            path = self._folder / self._files[-1]
            self._file = parquet.ParquetWriter(path, self._schema, compression="zstd", use_dictionary=False)
        self._file.write_table(self._table(rows))
        for name, count in zip(self._counts, _sizes(rows), strict=True):
            self._counts[name] += count
        self._in_file += len(rows)
        if self._in_file == self._rows_per_shard:
            self._file.close()
            self._file, self._in_file = None, 0

    def _table(self, rows: Rows) -> pa.Table:
        tokens = pa.array(rows.tokens.astype(self._dtype).reshape(-1))
        columns = [
            pa.FixedSizeListArray.from_arrays(tokens, type=self._schema.field("tokens").type),
            pa.array(rows.text_bytes, pa.uint32()),
            pa.array(rows.text_tokens, pa.uint32()),
        ]
        return pa.table(columns, schema=self._schema)


def row_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest unsigned type that holds every id of the vocabulary (rows never hold the mask)."""
    return np.min_scalar_type(vocab_size - 1)


def read_manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    return manifest


def iterate_rows(folder: Path, split: str) -> Iterator[Rows]:
    """A split's rows in order, a row group at a time."""
    manifest = read_manifest(folder)
    for name in manifest["splits"][split]["files"]:
        file = parquet.ParquetFile(folder / name, pre_buffer=False)
        for group in range(file.num_row_groups):
            yield _rows(file.read_row_group(group), manifest["seq_len"])


def read_rows(folder: Path, split: str, limit: int | None = None) -> Rows:
    """The first `limit` rows of a split, or all."""
    return Rows.join(list(_first(iterate_rows(folder, split), limit)))[:limit]


def _first(groups: Iterable[Rows], limit: int | None) -> Iterator[Rows]:
    count = 0
    for rows in groups:
        yield rows
        count += len(rows)
        if limit is not None and count >= limit:
            return


def _rows(table: pa.Table, seq_len: int) -> Rows:
    tokens = table.column("tokens").combine_chunks().flatten().to_numpy().astype(np.int32).reshape(-1, seq_len)
    text_bytes, text_tokens = (table.column(name).to_numpy().astype(np.int64) for name in ("text_bytes", "text_tokens"))
    return Rows(tokens, text_bytes, text_tokens)


def _sizes(rows: Rows) -> tuple[int, int, int, int]:
    return len(rows), rows.tokens.size, int(rows.text_tokens.sum()), int(rows.text_bytes.sum())
