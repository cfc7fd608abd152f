"""Muon: as torch's, all matrices at once, skipping without waiting, sharded."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ddlm.training.muon import POLAR_EXPRESS, Coefficients, Muon, orthogonalised

ROOT = Path(__file__).parents[3]
JORDAN: Coefficients = ((3.4445, -4.7750, 2.0315),) * 5
SHAPES = [(24, 24), (16, 40), (40, 16)] * 3
TWO_RANKS = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import Shard, distribute_tensor
from ddlm.training.muon import Muon

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))

def values(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in [(6, 6), (5, 8), (8, 5)]]

def trained(place, make, whole):
    parameters = [torch.nn.Parameter(place(value)) for value in values(0)]
    optimizer = make(parameters)
    for step, skip in enumerate([0.0, 1.0, 0.0]):
        getattr(optimizer, "optim", optimizer).found_inf = torch.tensor(skip)
        for parameter, gradient in zip(parameters, values(1 + step)):
            parameter.grad = place(gradient * float("nan") if skip else gradient)
        optimizer.step()
    return [whole(parameter.detach()) for parameter in parameters]

options = {"lr": 0.1, "dtype": torch.float32}
alone = trained(torch.clone, lambda p: Muon(p, **options), torch.clone)
sharded = trained(
    lambda value: distribute_tensor(value, mesh, [Shard(0)]), lambda p: Muon(p, **options), lambda p: p.full_tensor()
)
shared = trained(torch.clone, lambda p: ZeroRedundancyOptimizer([{"params": p}], Muon, **options), torch.clone)
torch.testing.assert_close(sharded, alone)
torch.testing.assert_close(shared, alone)
dist.destroy_process_group()
"""


def matrices(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def parameters(seed: int = 0) -> list[nn.Parameter]:
    return [nn.Parameter(value) for value in matrices(seed)]


def step(optimizer: torch.optim.Optimizer, gradients: list[Tensor]) -> None:
    for parameter, gradient in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()


def both(dtype: torch.dtype) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Five steps of ours and of torch's."""
    ours, reference = parameters(), parameters()
    optimizer = Muon(ours, lr=0.1, weight_decay=0.3, momentum=0.9, coefficients=JORDAN, dtype=dtype)
    theirs = torch.optim.Muon(reference, lr=0.1, weight_decay=0.3, momentum=0.9)
    for seed in range(1, 6):
        step(optimizer, matrices(seed))
        step(theirs, matrices(seed))
    return ours, reference


def test_it_steps_as_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # torch's has no float32
    torch.testing.assert_close(*both(torch.float32), rtol=1e-4, atol=1e-5)


def test_it_steps_in_bfloat16_as_torch_does() -> None:
    for ours, reference in zip(*both(torch.bfloat16), strict=True):
        assert (ours - reference).norm() < 0.01 * reference.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_over_three_decades_come_within_a_factor_of_fourteen(dtype: torch.dtype) -> None:
    left, _ = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(1)))
    right, _ = torch.linalg.qr(torch.randn(96, 64, generator=torch.Generator().manual_seed(2)))
    spectrum = torch.logspace(-3, 0, 64)
    spectrum[:-1] *= 0.5  # so that the norm, by which it is divided, is nearly the largest
    matrix = left @ torch.diag(spectrum) @ right.T
    (direction,) = orthogonalised([matrix.to(dtype)], POLAR_EXPRESS)
    values = torch.linalg.svdvals(direction.float())
    reached = spectrum / spectrum.norm() > 0.001
    assert values.max() < 1.87
    assert values.flip(0)[reached].min() > 0.13
    assert (torch.diag(left.T @ direction.float() @ right)[reached] > 0.13).all()


def test_matrices_in_one_batch_do_not_touch_each_other() -> None:
    together = orthogonalised(matrices(0), POLAR_EXPRESS)
    alone = [orthogonalised([matrix], POLAR_EXPRESS)[0] for matrix in matrices(0)]
    assert [direction.shape for direction in together] == [torch.Size(shape) for shape in SHAPES]
    torch.testing.assert_close(together, alone)


def test_a_matrix_without_gradient_stays() -> None:
    still, moving = parameters()[:2]
    moving.grad = torch.ones_like(moving)
    before = still.detach().clone()
    Muon([still, moving]).step()
    assert torch.equal(still, before)
    Muon([still]).step()


def test_only_matrices_are_taken() -> None:
    with pytest.raises(ValueError, match=r"Muon takes matrices, got a parameter of shape \(3,\); give it to AdamW"):
        Muon([nn.Parameter(torch.ones(3))])


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_skipped_step_changes_nothing(broken: float) -> None:
    skipping, plain = parameters(), parameters()
    first, second = Muon(skipping, lr=0.1), Muon(plain, lr=0.1)
    for seed in (1, 2):
        first.found_inf = torch.tensor(0.0)
        step(first, matrices(seed))
        step(second, matrices(seed))
        first.found_inf = torch.tensor(1.0)
        step(first, [matrix * broken for matrix in matrices(seed)])
        for ours, reference in zip(skipping, plain, strict=True):
            assert torch.equal(ours, reference)
            assert torch.equal(first.state[ours]["momentum_buffer"], second.state[reference]["momentum_buffer"])


def test_a_step_waits_for_no_value() -> None:
    """A tensor on the meta device has none: asking for it raises."""
    weights = [nn.Parameter(torch.empty(shape, device="meta")) for shape in SHAPES]
    optimizer = Muon(weights)
    optimizer.found_inf = torch.empty((), device="meta")
    step(optimizer, [torch.empty_like(weight) for weight in weights])
    with pytest.raises(RuntimeError, match="meta"):
        float(optimizer.found_inf)


def test_sharded_and_shared_out_it_steps_as_alone(tmp_path: Path) -> None:
    """FSDP2's sharded parameters, and ZeRO's shared state, over two processes, with a skipped step."""
    command = [sys.executable, "-c", TWO_RANKS]
    environment = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PATH": ""}
    ranks = [
        subprocess.Popen([*command, rank, str(tmp_path / "meeting")], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        for rank in ("0", "1")
    ]
    errors = [rank.communicate(timeout=120)[1].decode() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
