"""README's tables are what the records say."""

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCORES: dict[str, Any] = {
    "bits_per_byte": 1.38912, "bits_per_byte_stderr": 0.0062, "bits_per_byte_interval": [1.35, 1.43],
    "seed_protocols": {"S3": {"loss": 4.1, "loss_stderr": 0.008, "accuracy": 0.288, "accuracy_stderr": 0.0019}},
    "data": {"stories": 128, "text_bytes": 104563}, "data_digest": "1be78869",
}  # fmt: skip


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import results

    return results


def record(folder: Path, *digests: str) -> Path:
    for number, digest in enumerate(digests):
        (folder / f"{number}.json").write_text(json.dumps(SCORES | {"data_digest": digest}))
    rows = [{"trained_on": "stories", "scores": [f"{number}.json" for number in range(len(digests))]}]
    (folder / "results.json").write_text(json.dumps({"tables": [{"text": "stories", "rows": rows}]}))
    return folder


def test_the_readme_has_the_record_s_tables(script: ModuleType) -> None:
    assert script.tables() in (ROOT / "README.md").read_text()


def test_a_row_shows_only_digits_that_are_known(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "ROOT", tmp_path)
    table = script.tables(record(tmp_path, "a", "a"))
    assert "128 stories (104,563 bytes, digest `a`)" in table
    assert "| 1.39 ± 0.006 | 1.35 to 1.43 | 1.39 (1.39 to 1.39) | 4.10 ± 0.008 | 29 ± 0.2 % |" in table


def test_scores_of_different_text_share_no_table(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different text"):
        script.tables(record(tmp_path, "a", "b"))


def test_every_figure_of_the_readme_s_results_has_a_record(script: ModuleType) -> None:
    """What is not in a table stands beside a link to its record."""
    results = (ROOT / "README.md").read_text().split("## Results")[1].split("## The house")[0]
    for line in re.findall(r"^- (?:.*\n)(?:  .*\n)*", results, re.MULTILINE):
        if re.search(r"\d\.\d\d", line):
            assert "benchmarks/records/" in line or "S3 protocol" in line, line
