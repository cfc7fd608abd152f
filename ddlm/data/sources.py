"""Where stories come from: the bundled sample, local files, a hub dataset. Raw rows, in bounded memory."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from hashlib import file_digest
from itertools import islice
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, DataType, binary, parquet, types

from ddlm.config import UserError
from ddlm.data import CorpusConfig, hub
from ddlm.data.files import KINDS, split_files, story_files

logger = logging.getLogger(__name__)

SAMPLE = Path(__file__).with_name("sample.parquet")
SEPARATOR = b"<|endoftext|>"
ROWS_AT_A_TIME = 1024
COLUMN = "name the column of the text: --text-field, or corpus.text_field of an experiment"

Rows = Iterator[object]
"""Texts; what is not a `str` is a broken row."""


class NoColumn(UserError):
    """The file has no column of that name."""


def resolve(corpus: CorpusConfig) -> dict[str, Any]:
    """What `corpus.source` stands for right now: a document that changes when the text does.

    Raises: UserError for a missing file, a folder without text, or an unreachable hub with offline="error".
    """
    if corpus.source == "sample":
        return _sample()
    path = Path(corpus.source)
    if path.exists():
        root = path if path.is_dir() else path.parent
        return {"kind": "local", "files": {str(file.relative_to(root)): _sha256(file) for file in story_files(path)}}
    if not hub.looks_like_an_id(corpus.source) or path.suffix.lower() in KINDS:
        raise UserError(
            f"corpus.source {corpus.source}: no such file; give a file or folder of parquet, jsonl or txt, "
            'a hub dataset id, or "sample"'
        )
    commit = hub.find_commit(corpus)
    return {"kind": "hub", "dataset": corpus.source, "commit": commit} if commit else _sample()


def require_local(path: Path) -> dict[str, Any]:
    """A document as `resolve` gives it, without the digests. Raises: UserError for a missing file."""
    if not path.exists():
        raise UserError(f"{path}: no such file; give a file or folder of parquet, jsonl or txt")
    return {"kind": "local", "files": {str(file): "" for file in story_files(path)}}


def open_splits(corpus: CorpusConfig, source: dict[str, Any]) -> dict[str, Rows]:
    """The rows of what `resolve` found, by `train` and, where the source has such a split, `validation`."""
    train, validation = parse_split(corpus.train_split), parse_split(corpus.validation_split)
    if source["kind"] == "hub":
        found = hub.open_splits(corpus, source["commit"], train=train[0], validation=validation[0])
    else:
        path = SAMPLE if source["kind"] == "sample" else Path(corpus.source)
        field = "text" if source["kind"] == "sample" else corpus.text_field
        splits = split_files(path, train[0], validation[0])
        if path.is_dir():
            logger.info("corpus: %s", splits.describe(path))
        found = {name: read_files(files, field) for name, files in splits.named().items()}
    slices = {"train": train[1], "validation": validation[1]}
    return {name: islice(rows, slices[name].start, slices[name].stop) for name, rows in found.items()}


def parse_split(text: str) -> tuple[str, slice]:
    """`train[:500]` to ("train", slice(None, 500)). Raises: UserError for anything else in the brackets."""
    match = re.fullmatch(r"([\w.-]+)(?:\[(\d*):(\d*)\])?", text)
    if not match:
        raise UserError(f"corpus split {text!r}: wanted a name with row numbers, for example train or train[:50000]")
    name, start, stop = match.groups()
    return name, slice(int(start) if start else None, int(stop) if stop else None)


def read_files(files: list[Path], field: str) -> Rows:
    """Raises: UserError naming the file that is not what its name says, or has no such column."""
    for path in files:
        yield from READERS[path.suffix.lower()](path, field)


def _read_parquet(path: Path, field: str) -> Rows:
    try:
        table = parquet.ParquetFile(path, pre_buffer=False)  # a pre-buffer would end up holding the whole file
        if field not in table.schema_arrow.names:
            raise _no_column(path, field, table.schema_arrow.names)
        kind = table.schema_arrow.field(field).type
        if not _holds_text(kind):
            raise UserError(f"corpus file {path}: column {field!r} is {kind}, not text; {COLUMN}")
        for batch in table.iter_batches(ROWS_AT_A_TIME, columns=[field]):
            column = batch.column(field)
            try:
                rows = column.to_pylist()
                yield from map(_decoded, rows) if _is_bytes(kind) else rows
            except UnicodeDecodeError:
                yield from map(_decoded, column.cast(binary()).to_pylist())
    except (ArrowException, OSError) as error:
        fault = str(error).partition("\n")[0]
        raise UserError(f"corpus file {path}: not a readable parquet file ({fault}); take a whole copy") from None


def _is_bytes(kind: DataType) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _holds_text(kind: DataType) -> bool:
    values = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(values) or types.is_large_string(values) or _is_bytes(values) or types.is_null(values))


def _read_jsonl(path: Path, field: str) -> Rows:
    """Raises: UserError when no row of the first ROWS_AT_A_TIME has the field: a first line may describe the others."""
    is_found, is_json, names = False, False, dict[str, None]()
    with path.open("rb") as lines:
        for number, line in enumerate(_each_line(lines), start=1):
            row = _parsed(line)
            is_json = is_json or row not in (line, "")
            if isinstance(row, dict):
                is_found = is_found or field in row
                names |= dict.fromkeys(row)
                yield row.get(field)
            else:
                yield row
            if number == ROWS_AT_A_TIME and not is_found:
                break
    if is_json and not is_found:
        raise _no_column(path, field, list(names))


def _parsed(line: bytes) -> object:
    """The line itself where it isn't JSON or not UTF-8: a broken row. A blank one is an empty story."""
    if not line.strip():
        return ""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def _read_text(path: Path, field: str) -> Rows:  # noqa: ARG001  the same signature as its brothers
    """Stories between `<|endoftext|>` where the file has them, otherwise one a line."""
    with path.open("rb") as lines:
        stories = _between_separators if any(SEPARATOR in line for line in lines) else _each_line
        lines.seek(0)
        for number, story in enumerate(stories(lines), start=1):
            text = _decoded(story)
            if not isinstance(text, str) or "\0" in text:
                raise UserError(f"corpus file {path}: story {number} is not UTF-8 text; convert the file to UTF-8")
            yield text


def _each_line(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Lines of old Macs end in a carriage return alone."""
    return (part for line in lines for part in line.splitlines())


def _between_separators(lines: Iterator[bytes]) -> Iterator[bytes]:
    story = b""
    for line in lines:
        *ended, rest = line.split(SEPARATOR)
        for part in ended:
            yield story + part
            story = b""
        story += rest
    if story.strip():
        yield story


READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".txt": _read_text,
}


def _no_column(path: Path, field: str, names: list[str]) -> NoColumn:
    return NoColumn(f"corpus file {path}: no column {field!r}; it has {', '.join(names) or 'none'}; {COLUMN}")


def _decoded(raw: bytes | None) -> object:
    try:
        return raw.decode() if raw is not None else None
    except UnicodeDecodeError:
        return raw


def _sample() -> dict[str, Any]:
    return {"kind": "sample", "sha256": _sha256(SAMPLE)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
