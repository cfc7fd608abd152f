"""README's tables of results, made from the scores of a record; a test keeps them equal.

A record's `results.json` lists tables, each of one text; a table's rows list the scores (`ddlm evaluate --json`) of the
same training with several seeds. Scores of different text never share a table: that is refused.

    python benchmarks/results.py                       # prints the Markdown
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ddlm.evaluation.measures import with_error

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "records" / "2026-12-01_epyc-2core_quick"
COLUMNS = (
    "trained on", "bits per byte ≤", "95 % over stories", "all seeds", "S3 protocol: nats", "accuracy", "scores",
)  # fmt: skip


def tables(record: Path = RECORD) -> str:
    """Every table of the record under a line that names its text. Raises: ValueError where texts are mixed."""
    listed = json.loads((record / "results.json").read_text())
    return "\n\n".join(table(record, entry) for entry in listed["tables"])


def table(record: Path, entry: dict[str, Any]) -> str:
    rows = [(row["trained_on"], [read(record / name) for name in row["scores"]], row) for row in entry["rows"]]
    first = rows[0][1][0]
    if len({scores["data_digest"] for _, seeds, _ in rows for scores in seeds}) > 1:
        raise ValueError(f"{entry['text']}: the scores are of different text, so they can't share a table")
    data = first["data"]
    text = f"{data['stories']} {entry['text']} ({data['text_bytes']:,} bytes, digest `{first['data_digest'][:8]}`)"
    lines = [cells(record, trained_on, seeds, row["scores"]) for trained_on, seeds, row in rows]
    head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
    return f"Measured on {text}:\n\n{head}" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(record: Path, trained_on: str, seeds: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """The first seed's figures with their Monte-Carlo errors and the digits that these leave known; all seeds' span."""
    first, bits = seeds[0], [scores["bits_per_byte"] for scores in seeds]
    low, high = first["bits_per_byte_interval"]
    s3 = first["seed_protocols"]["S3"]
    links = ", ".join(f"[{n}]({(record / name).relative_to(ROOT)})" for n, name in enumerate(names, start=1))
    return [
        trained_on,
        with_error("{:.3f}", first["bits_per_byte"], first["bits_per_byte_stderr"]),
        f"{low:.2f} to {high:.2f}",
        f"{mean(bits):.2f} ({min(bits):.2f} to {max(bits):.2f})",
        with_error("{:.2f}", s3["loss"], s3["loss_stderr"]),
        with_error("{:.1%}", s3["accuracy"], s3["accuracy_stderr"]),
        links,
    ]


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


if __name__ == "__main__":
    print(tables())
