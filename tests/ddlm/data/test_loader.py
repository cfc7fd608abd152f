from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ddlm.artifacts import Workspace
from ddlm.config import UserError
from ddlm.data import ShardsConfig
from ddlm.data.loader import ROWS_AT_A_TIME, TokenLoader, shuffled
from ddlm.data.shards import build, read_rows

BATCH = 12
Load = Callable[..., TokenLoader]


@pytest.fixture
def shards(workspace: Callable[..., Workspace], corpus: Path, make_tokenizer: Callable[..., Path]) -> Path:
    room = workspace(corpus=corpus, tokenizer=make_tokenizer())
    build(room, shards=ShardsConfig(seq_len=16, rows_per_shard=10))
    return room.output


@pytest.fixture
def load(shards: Path, tmp_path: Path) -> Load:
    def make(batch_size: int = BATCH, seed: int = 1, **ranks: int) -> TokenLoader:
        return TokenLoader(shards, "train", batch_size, seed, tmp_path, **ranks)

    return make


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 16, 17, 100, 4095, 4097])
def test_every_epoch_is_a_permutation(num_rows: int) -> None:
    for epoch in (0, 1, 7, 2**33):
        numbers = np.arange(epoch * num_rows, (epoch + 1) * num_rows)
        assert sorted(shuffled(numbers, num_rows, seed=5)) == list(range(num_rows))


def test_the_order_depends_on_seed_and_epoch() -> None:
    orders = [shuffled(np.arange(100), 100, seed) for seed in (0, 1, 2**32, 2**63 - 1)]
    orders.append(shuffled(np.arange(100, 200), 100, 0))
    for one, order in enumerate(orders):
        for other in orders[one + 1 :]:
            assert np.count_nonzero(order == other) < 10


def test_any_row_can_stand_anywhere() -> None:
    """Each of 16 rows comes first in about 1 of 16 epochs, and neighbours in the data do not stay neighbours."""
    orders = shuffled(np.arange(4000 * 16), 16, seed=3).reshape(4000, 16)
    counts = np.stack([np.bincount(orders[:, place], minlength=16) for place in range(16)])
    chi_squared = ((counts - 250) ** 2 / 250).sum(1)
    assert chi_squared.max() < 50  # 15 degrees of freedom: above 50 once in 80 000
    follows = np.mean(orders[:, 1:] == orders[:, :-1] + 1)
    assert abs(follows - 1 / 16) < 0.005


def test_numbers_may_cross_epochs() -> None:
    whole = shuffled(np.arange(30), 10, seed=2)
    assert np.array_equal(shuffled(np.arange(7, 24), 10, seed=2), whole[7:24])


def test_one_epoch_of_batches_holds_every_row_once(load: Load, shards: Path) -> None:
    loader = load(batch_size=1)
    rows = read_rows(shards, "train").tokens
    seen = [loader.batch(step)[0] for step in range(loader.num_rows)]
    assert sorted(row.tolist() for row in seen) == sorted(rows.tolist())
    assert not np.array_equal(np.stack(seen), rows)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_same_global_batch(load: Load, world_size: int) -> None:
    alone = load()
    ranks = [load(rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in (0, 1, 5, 1000):
        parts = [rank.batch(step) for rank in ranks]
        assert [len(part) for part in parts] == [BATCH // world_size] * world_size
        assert np.array_equal(np.concatenate(parts), alone.batch(step))


def test_ranks_never_share_a_row_within_an_epoch(load: Load, shards: Path) -> None:
    ranks = [load(batch_size=4, rank=rank, world_size=4) for rank in range(4)]
    steps = ranks[0].num_rows // 4
    seen = Counter(tuple(rank.batch(step)[0]) for step in range(steps) for rank in ranks)
    assert seen.total() == steps * 4
    assert seen <= Counter(map(tuple, read_rows(shards, "train").tokens))


def test_a_batch_is_a_function_of_the_step_alone(load: Load) -> None:
    walked, jumped = load(), load()
    batches = [walked.batch(step) for step in range(900)]
    for step in (899, 3, ROWS_AT_A_TIME // BATCH, 0):
        assert np.array_equal(jumped.batch(step), batches[step])
    assert not np.array_equal(load(seed=2).batch(0), batches[0])


def test_a_batch_may_be_larger_than_the_data(load: Load) -> None:
    loader = load(batch_size=200)
    assert loader.batch(3).shape == (200, 16)


def test_a_batch_that_ranks_cannot_share_is_refused(load: Load) -> None:
    with pytest.raises(UserError, match="batch of 12 rows: 5 processes can't share it evenly"):
        load(world_size=5)


def test_decoded_rows_leave_nothing_on_the_disk(load: Load, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    loader = load()
    loader.batch(0)
    assert sorted(tmp_path.rglob("*")) == before


def test_prefetched_batches_are_the_same(load: Load) -> None:
    import torch

    loader = load()
    batches = loader.batches(4, "cpu")
    for step in range(4, 10):
        batch = next(batches)
        assert batch.dtype == torch.int64
        assert np.array_equal(batch.numpy(), load().batch(step))
    batches.close()


@pytest.mark.gpu
def test_prefetched_batches_arrive_on_the_gpu(load: Load) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    batches = load().batches(0, "cuda")
    for step in range(20):
        batch = next(batches)
        assert batch.is_cuda
        assert np.array_equal(batch.cpu().numpy(), load().batch(step))
    batches.close()
