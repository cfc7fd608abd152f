"""`ddlm evaluate` by several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SMALL = {
    "stories": 8, "masks_per_row": 2, "chain_rule_stories": 1, "num_samples": 2, "num_continuations": 1,
    "num_infills": 0, "batch_size": 1,
}  # fmt: skip
STORIES = [
    f"Once upon a time there was a {kind} {animal}. The {animal} ran to the park and saw a big red ball. It was happy."
    for kind in ("little", "brave", "hungry")
    for animal in ("dog", "cat", "bird")
]


@pytest.mark.slow
def test_several_processes_share_the_rows_and_one_of_them_answers(tiny_model: Path, tmp_path: Path) -> None:
    data = tmp_path / "stories.txt"
    data.write_text("\n<|endoftext|>\n".join(STORIES))
    settings = [part for key, value in SMALL.items() for part in ("--set", f"evaluation.{key}={value}")]
    command = [
        "-m", "ddlm", "evaluate", str(tiny_model), "--data", str(data), "--budget", "quick", "--json", *settings,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}

    def run(*launcher: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, *launcher, *command], env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    alone, shared = run(), run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert alone["data"] == shared["data"]
    assert alone["data"]["stories"] == 8
    same = ("bits_per_byte", "bits_per_byte_interval", "nll_nats", "chain_rule", "mask_rate_curve", "seed_protocols")
    assert {name: shared[name] for name in same} == {name: alone[name] for name in same}
    assert shared["samples"] == alone["samples"]
