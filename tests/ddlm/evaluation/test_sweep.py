"""Rows shared out between processes: the numbers of one, in everyone's hands."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ddlm.data.packing import Rows
from ddlm.evaluation import likelihood
from ddlm.evaluation.sweep import Sweep, processes
from ddlm.model import ModelConfig
from ddlm.model.transformer import Denoiser

ROOT = Path(__file__).parents[3]
VOCAB, LENGTH = 11, 8
MANY, ONE = 13, 1


def measured(rows, kind, sweep):
    """The nats of some rows by a network of random weights, one row at a time or in batches."""
    torch.manual_seed(0)
    is_twin = kind == "exact"
    config = ModelConfig(d_model=16, num_layers=2, num_heads=2, attention="causal")
    network = Denoiser(config, vocab_size=VOCAB, seq_len=LENGTH, is_autoregressive=is_twin).eval()
    for weight in (network.output.weight, *(block.feed_forward.down.weight for block in network.blocks)):
        torch.nn.init.normal_(weight)
    tokens = np.random.default_rng(0).integers(0, VOCAB, (rows, LENGTH)).astype(np.int32)
    given = Rows(tokens, np.full(rows, LENGTH), np.full(rows, LENGTH))
    return likelihood.likelihood_of(network, given, masks_per_row=4, seed=0, sweep=sweep)


def main(folder):
    """What each of several processes runs: it leaves its own view of the result."""
    with processes() as (index, count):
        for rows in (MANY, ONE):
            for kind in ("upper", "exact"):
                found = measured(rows, kind, Sweep(batch_size=1, index=index, count=count))
                assert found.bound == kind
                np.savez(
                    Path(folder) / f"{kind}-{rows}-{index}.npz", row_nats=found.row_nats,
                    single=[found.bits_per_byte, found.nll_nats, found.nll_nats_stderr, found.accuracy],
                )  # fmt: skip


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, str(folder),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kind", ["upper", "exact"])
@pytest.mark.parametrize("rows", [MANY, ONE])
def test_two_processes_have_the_bits_of_one_and_each_has_all_of_them(of_two, kind, rows):
    """Of one row the second process has no share."""
    alone = measured(rows, kind, Sweep(batch_size=1))
    for index in range(2):
        theirs = np.load(of_two / f"{kind}-{rows}-{index}.npz")
        assert np.array_equal(theirs["row_nats"], alone.row_nats)
        single = [alone.bits_per_byte, alone.nll_nats, alone.nll_nats_stderr, alone.accuracy]
        assert theirs["single"].tolist() == single
    assert len(np.unique(alone.row_nats)) == rows


@pytest.mark.parametrize("kind", ["upper", "exact"])
@pytest.mark.parametrize("batch_size", [2, 5, 64])
def test_the_batch_size_changes_nothing_but_rounding(kind, batch_size):
    alone, batched = (measured(MANY, kind, Sweep(batch_size=size)) for size in (1, batch_size))
    assert batched.row_nats == pytest.approx(alone.row_nats, rel=1e-5)
    assert batched.accuracy == alone.accuracy


@pytest.mark.parametrize(("count", "batch_size"), [(1, 3), (1, 64), (2, 3), (3, 1), (9, 2)])
def test_every_row_is_scored_by_one_process_in_batches_of_the_size_asked_for(count, batch_size, monkeypatch):
    scored, together = [], np.zeros((7, 2))

    def score(numbers):
        scored.append(numbers)
        return np.stack([numbers, numbers**2], axis=1).astype(np.float64)

    monkeypatch.setattr("torch.distributed.all_reduce", lambda whole: whole)
    for index in range(count):
        before = len(scored)
        found = Sweep(batch_size, index=index, count=count).over(score, 7)
        assert found.shape == (7, 2)
        own = np.concatenate(scored[before:])
        if index < 7:
            assert own.tolist() == list(range(index, 7, count))
            together += found
    assert max(map(len, scored)) <= batch_size
    assert together.tolist() == [[number, number**2] for number in range(7)]


def test_alone_there_is_nobody_to_join(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes() as found:
        assert found == (0, 1)
        assert not torch.distributed.is_initialized()
    assert Sweep().is_first
    assert not Sweep(index=1, count=2).is_first


if __name__ == "__main__":
    main(sys.argv[1])
