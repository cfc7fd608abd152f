import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ddlm.bench import load, tokenize
from ddlm.bench.tokenize import in_fresh_process, peak_memory_bytes
from ddlm.data.corpus import iterate_stories
from ddlm.experiment import Experiment

MEGABYTE = 1_000_000


def test_tokenizing_is_measured_against_the_bare_library(tiny: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize, "REPEATS", 1)
    figures = tokenize.measure(tiny, text_bytes=MEGABYTE)
    assert figures["ratio"] == pytest.approx(figures["mb_per_s"] / figures["bare_mb_per_s"])
    assert figures["ratio"] > 0.2
    assert figures["mb_per_s"] > 0.01
    assert MEGABYTE < figures["text_bytes"] < 2 * MEGABYTE
    assert 30 * MEGABYTE < figures["peak_memory_bytes"] < 1000 * MEGABYTE


def test_loading_is_measured_for_one_core(tiny: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "SECONDS", 0.2)
    figures = load.measure(tiny)
    assert figures["tokens_per_s_per_core"] > 1e5
    assert (figures["batch_size"], figures["seq_len"]) == (8, 64)


def test_stories_are_repeated_up_to_the_size(tiny: Experiment, tmp_path: Path) -> None:
    corpus = tokenize.build_inputs(tiny, tmp_path, until="corpus")["corpus"]
    size = tokenize.repeat_stories(corpus, tmp_path / "repeated", MEGABYTE)
    stories = list(iterate_stories(tmp_path / "repeated", "train"))
    written = sum(len(story.encode()) for story in stories)
    assert written >= MEGABYTE
    assert size > written
    assert stories[0] in stories[1:]


def test_a_fresh_process_does_not_inherit_peak_memory() -> None:
    block = bytearray(300 * MEGABYTE)
    block[::4096] = b"x" * len(block[::4096])
    assert peak_memory_bytes() > len(block)
    assert in_fresh_process(peak_memory_bytes) < len(block) - 100 * MEGABYTE


WORK = """
import os, sys, time
from pathlib import Path
from ddlm.bench.tokenize import in_fresh_process

def work(note):
    Path(note).write_text(str(os.getpid()))
    time.sleep(90)

if __name__ == "__main__":
    in_fresh_process(work, sys.argv[1])
"""


def test_a_fresh_process_ends_with_the_one_that_asked_for_it(tmp_path: Path) -> None:
    program, note = tmp_path / "program.py", tmp_path / "pid"
    program.write_text(WORK)
    with subprocess.Popen([sys.executable, str(program), str(note)]) as asking:
        assert _comes_true(lambda: note.exists() and note.read_text() != "")
        asking.kill()
    fresh = int(note.read_text())
    assert _comes_true(lambda: not _runs(fresh))


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _comes_true(claim: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not claim() and time.monotonic() < deadline:
        time.sleep(0.05)
    return claim()
