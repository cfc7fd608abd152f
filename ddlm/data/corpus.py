"""The corpus stage: rows of a source become cleaned, distinct stories in a train and a validation file."""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import ftfy
import pyarrow as pa
from pyarrow import parquet

from ddlm.artifacts import Workspace
from ddlm.config import UserError
from ddlm.data import CorpusConfig
from ddlm.data.checks import Words, objections
from ddlm.data.progress import shown
from ddlm.data.sources import Rows, open_splits, require_local, resolve

__all__ = ["build", "clean", "iterate_stories", "read_stories", "resolve"]

logger = logging.getLogger(__name__)

SCHEMA = pa.schema([pa.field("text", pa.string(), nullable=False)])
STORIES_AT_A_TIME = 1024
HALF_A_QUOTE = re.compile(r"â€(?=[\x00-\x7f]|$)")
"""What ftfy leaves, or takes for a dagger: Windows-1252 has no character for 9D, so where UTF-8 was read as that, a
closing quote lost its third byte."""
FEWEST_TRAIN_STORIES = 8


def build(workspace: Workspace, *, corpus: CorpusConfig, source: dict[str, Any]) -> None:
    """Write train.parquet, validation.parquet and report.json.

    No story is in both splits: validation keeps it. Memory holds 16 bytes' hash a story, not the text.
    Raises: UserError when the source has too few stories.
    """
    if source["kind"] == "sample" and corpus.source != "sample":
        logger.warning(
            "THE HUB CAN'T BE REACHED: taking the few bundled sample stories instead of %s. "
            "The model will be much worse than on the dataset itself.",
            corpus.source,
        )
    splits = open_splits(corpus, source)
    counts: dict[str, Counter[str]] = {}
    seen: set[bytes] = set()
    writers = {name: SplitWriter(workspace.output / f"{name}.parquet") for name in ("train", "validation")}
    for name in sorted(splits, reverse=True):  # validation first
        counts[name] = Counter(rows=0, empty=0, broken=0, duplicates=0)
        stories = distinct(shown(splits[name], f"reading {name}, stories"), seen, counts[name])
        placed = ((name, text) for _, text in stories) if "validation" in splits else hold_out(stories, corpus)
        for split, text in placed:
            writers[split].add(text)
    for writer in writers.values():
        writer.close()
    _require_enough(corpus, counts, writers)
    _report(workspace.output, source, counts, writers)


def clean(text: str) -> str:
    """Repair mojibake, unify line ends, drop outer whitespace and blanks at line ends; clean text stays as it is."""
    repaired = ftfy.fix_encoding(HALF_A_QUOTE.sub("”", text)).replace("\r\n", "\n").replace("\r", "\n")
    return "\n".join(line.rstrip() for line in repaired.removeprefix("\ufeff").split("\n")).strip()


def distinct(rows: Rows, seen: set[bytes], counts: Counter[str]) -> Iterator[tuple[bytes, str]]:
    """Cleaned stories that are not in `seen`, each with the 16-byte hash that is added to it."""
    for row in rows:
        counts["rows"] += 1
        text = _cleaned(row)
        if text is None:
            counts["broken"] += 1
        elif not text:
            counts["empty"] += 1
        elif (key := hashlib.blake2b(text.encode(), digest_size=16).digest()) in seen:
            counts["duplicates"] += 1
        else:
            seen.add(key)
            yield key, text


def hold_out(stories: Iterator[tuple[bytes, str]], corpus: CorpusConfig) -> Iterator[tuple[str, str]]:
    """Stories with their split, by hash. The one with the lowest hash is always validation's, so that it has one."""
    border = int(corpus.validation_fraction * 2**128).to_bytes(16, "big")
    lowest = next(stories, None)
    if lowest is None:
        return
    for story in stories:
        story, lowest = max(story, lowest), min(story, lowest)
        yield ("validation" if story[0] < border else "train"), story[1]
    yield "validation", lowest[1]


class SplitWriter:
    """Stories into one parquet file, a row group at a time."""

    def __init__(self, path: Path) -> None:
        self.stories = 0
        self.text_bytes = 0
        self.words = Words()
        self._writer = parquet.ParquetWriter(path, SCHEMA, compression="zstd")
        self._waiting: list[str] = []

    def add(self, text: str) -> None:
        self.stories += 1
        self.text_bytes += len(text.encode())
        self.words.add(text)
        self._waiting.append(text)
        if len(self._waiting) == STORIES_AT_A_TIME:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if not self._waiting:
            return
        self._writer.write_table(pa.table([pa.array(self._waiting, pa.string())], schema=SCHEMA))
        self._waiting = []


def iterate_stories(folder: Path, split: str) -> Iterator[str]:
    """The stories of a corpus artifact in order, in bounded memory."""
    path = folder / f"{split}.parquet"
    file = parquet.ParquetFile(path, pre_buffer=False)  # a pre-buffer would end up holding the whole file
    for batch in file.iter_batches(STORIES_AT_A_TIME):
        yield from batch.column("text").to_pylist()


def read_stories(folder: Path, split: str, limit: int | None = None) -> list[str]:
    """The first `limit` stories of a corpus artifact, or all."""
    stories: list[str] = []
    for text in iterate_stories(folder, split):
        if len(stories) == limit:
            break
        stories.append(text)
    return stories


def read_source(path: Path, limit: int | None = None, *, text_field: str = "text") -> list[str]:
    """Cleaned, distinct stories of a local file or folder, to measure with: of a folder the validation split, if it
    has one. Raises: UserError if there are none."""
    splits = open_splits(CorpusConfig(source=str(path), text_field=text_field), require_local(path))
    rows, counts = splits.get("validation", splits["train"]), Counter(rows=0, empty=0, broken=0)
    stories = [text for _, text in islice(distinct(rows, set(), counts), limit)]
    if not stories:
        found = f"{counts['rows']} rows, {counts['empty']} empty and {counts['broken']} broken"
        raise UserError(f"{path}: no stories in it ({found}); give a file of parquet, jsonl or txt with text")
    return stories


def _cleaned(row: object) -> str | None:
    if not isinstance(row, str):
        return None
    text = clean(row)
    if "\0" in text:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, from JSON
        return None
    return text


def _require_enough(corpus: CorpusConfig, counts: dict[str, Counter[str]], writers: dict[str, SplitWriter]) -> None:
    train, validation = writers["train"].stories, writers["validation"].stories
    if train >= FEWEST_TRAIN_STORIES and validation:
        return
    total = sum(counts.values(), Counter())
    raise UserError(
        f"corpus.source {corpus.source}: {train} stories to train on and {validation} to validate with, out of "
        f"{total['rows']} rows ({total['empty']} empty, {total['broken']} broken: no text, or with NUL or half a "
        f"character in it, {total['duplicates']} duplicates); wanted at least {FEWEST_TRAIN_STORIES} and 1: give more"
    )


def _report(
    folder: Path, source: dict[str, Any], counts: dict[str, Counter[str]], writers: dict[str, SplitWriter]
) -> None:
    """What went in and out. Neither commit nor hashes: equal stories of another commit must give equal bytes."""
    report = {
        "source": {name: source[name] for name in ("kind", "dataset") if name in source},
        "read": {name: dict(counter) for name, counter in sorted(counts.items())},
        "stories": {name: writer.stories for name, writer in writers.items()},
        "text_bytes": {name: writer.text_bytes for name, writer in writers.items()},
        "words": {name: writer.words.report() for name, writer in writers.items()},
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for objection in objections(counts, {name: writer.words for name, writer in writers.items()}):
        logger.warning("corpus: %s", objection)
