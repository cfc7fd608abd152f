"""Several ranks on one batch: started here or by torchrun, the network wrapped, the optimizer's state shared out.

A rank's rows, masks and weights are pure functions of (seed, step) and the row, and the loss is normalised by global
counts, so that the ranks' gradients add up to those of one process.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(minutes=20)
"""How long a rank waits for another: longer than the first one validates and samples."""
HERE, READY = "127.0.0.1", "ready"


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def share(self, batch_size: int) -> slice:
        """This rank's rows of the global batch."""
        return slice(self.index * batch_size // self.count, (self.index + 1) * batch_size // self.count)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, a new tensor."""
        values = values.clone()
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def highest(self, *values: float) -> list[float]:
        """The highest of each value over ranks. Host to host: no device is waited for."""
        if self.count == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return [float(value) for value in shared]


@contextmanager
def joined(device: torch.device, processes: int, follow: Callable[..., None], *arguments: Any) -> Iterator[Ranks]:
    """The group that this process trains in.

    Under torchrun its ranks; with `processes` > 1 this process is the first and starts the others, each running
    `follow(index, port, *arguments)`; else it is alone. An error that ends another rank is raised here.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        with group(device, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) as ranks:
            yield ranks
    elif processes == 1:
        yield Ranks()
    else:
        with _followers(processes, follow, arguments) as store, group(device, 0, processes, store) as ranks:
            yield ranks


@contextmanager
def _followers(processes: int, follow: Callable[..., None], arguments: tuple[Any, ...]) -> Iterator[TCPStore]:
    """Starts the other ranks and waits until all are there; yields the store where they meet."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = TCPStore(HERE, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
    others = start_processes(  # type: ignore[no-untyped-call]
        _follow, (follow, store.port, arguments), processes - 1, join=False, daemon=True, start_method="spawn"
    )
    try:
        while store.add(READY, 0) < processes - 1:
            others.join(timeout=0.2)  # raises what ended one of them
        yield store
    except RuntimeError:
        others.join(timeout=5)  # a broken connection: raises what ended the other side
        raise
    finally:
        for process in others.processes:
            process.join(timeout=10)
            process.kill()


def _follow(number: int, follow: Callable[..., None], port: int, arguments: tuple[Any, ...]) -> None:
    follow(number + 1, port, *arguments)


def meeting_place(port: int) -> TCPStore:
    """The first rank's store, as another rank reaches it: it says that it is there."""
    store = TCPStore(HERE, port, is_master=False, timeout=PATIENCE)
    store.add(READY, 1)
    return store


@contextmanager
def group(device: torch.device, index: int, count: int, store: Store | None = None) -> Iterator[Ranks]:
    """gloo between hosts, nccl between CUDA devices. Without a store torchrun's environment says where to meet."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", index)) % torch.cuda.device_count())
    dist.init_process_group(backend, store=store, rank=index, world_size=count, timeout=PATIENCE)
    try:
        yield Ranks(index, count)
    finally:
        dist.destroy_process_group()


def wrapped(network: nn.Module, blocks: nn.ModuleList, ranks: Ranks, sharding: str) -> nn.Module:
    """The network as the ranks run it together. With `full`, parameters become sharded tensors in place."""
    if ranks.count == 1:
        return network
    if sharding == "full":
        for block in blocks:
            fully_shard(block)
        fully_shard(network)
        return network
    return DistributedDataParallel(network, gradient_as_bucket_view=True)


def last_part_synchronises(network: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Gradients are summed over ranks once a step, after the last part: reduced earlier they would lose the others."""
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(is_last)
    if isinstance(network, DistributedDataParallel) and not is_last:
        return network.no_sync()
    return nullcontext()


def sharded(optimizer: torch.optim.Optimizer, ranks: Ranks, sharding: str) -> torch.optim.Optimizer:
    """With `optimizer`, each rank keeps the state of its share of the parameters. Source: ZeRO, Rajbhandari 2020."""
    if ranks.count == 1 or sharding != "optimizer":
        return optimizer
    return ZeroRedundancyOptimizer(optimizer.param_groups, type(optimizer))


def whole(tensor: Tensor) -> Tensor:
    """A tensor as one process would hold it. All ranks call this together."""
    values = tensor.detach()
    return values.full_tensor() if isinstance(values, DTensor) else values


def like(tensor: Tensor, value: Tensor) -> Tensor:
    """A whole value, the same on all ranks, placed as `tensor` is; so none is sent."""
    if isinstance(tensor, DTensor):
        value = value.to(tensor.device)
        return distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
    return value.to(tensor.device)
