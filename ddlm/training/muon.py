"""Muon: a matrix moves along its momentum with singular values made equal, so that rare directions learn as well.

Source: Jordan et al., Muon, 2024; the iteration's coefficients: Amsel et al., The Polar Express, 2025 (2505.16932).
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ddlm.training.distributed import like, whole

Coefficients = Sequence[tuple[float, float, float]]

POLAR_EXPRESS: Coefficients = (
    (8.386464, -24.369650, 17.725117),
    (4.141420, -3.017275, 0.552427),
    (3.961857, -2.954064, 0.562976),
)
"""The three best iterations for singular values from 0.001 to 1, which become 0.14 to 1.86. All but the last leave
1 % of room for bfloat16.

Most singular values of a real momentum are far below 0.002 of its norm and stay small, with five of Jordan's iterations
too. The fourth best iteration makes the middle of them three times as large (`benchmarks/muon.py`), a third of the time
longer, and the model no better: 1.9203 against 1.9208 bits a byte after 400 steps of `configs/quick.toml`, one seed.
"""

AT_ONCE_ON_CPU = 4
"""Matrices that are moved together. Of more, what lies between leaves the cache: 264 ms became 227 for 42 of them."""


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` with its "original" learning rates, all matrices of a shape at once, for sharded tensors too.

    coefficients: one triple an iteration, see `orthogonalise`. dtype: what the iteration multiplies in.
    found_inf: as in torch's fused optimizers, a tensor; where it is 1 a step changes nothing, and no one waits for it.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.02,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        coefficients: Coefficients = POLAR_EXPRESS,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """Raises: ValueError for a parameter that is no matrix."""
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, {**defaults, "coefficients": coefficients, "dtype": dtype})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    shape = tuple(parameter.shape)
                    raise ValueError(f"Muon takes matrices, got a parameter of shape {shape}; give it to AdamW")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for indices in alike(parameters):
                self._move([parameters[index] for index in indices], group)

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        updates = self._nesterov(parameters, group["momentum"])
        directions = orthogonalised([whole(update.to(group["dtype"])) for update in updates], group["coefficients"])
        decay = group["lr"] * group["weight_decay"]
        if self.found_inf is not None:
            effect = 1 - self.found_inf
            decay, directions = decay * effect, [direction * effect for direction in directions]
        torch._foreach_mul_(parameters, 1 - decay)
        for parameter, direction in zip(parameters, directions, strict=True):
            rows, columns = parameter.shape
            step = group["lr"] * math.sqrt(max(1, rows / columns))
            parameter.add_(like(parameter, direction), alpha=-step)

    def _nesterov(self, parameters: list[Tensor], momentum: float) -> Sequence[Tensor]:
        """Moves the momenta on, and returns them as they would be a step ahead."""
        momenta = [self._momentum(parameter) for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.found_inf is not None:  # a momentum in the place of its gradient stays, to the bit, as it is
            is_kept = self.found_inf > 0
            gradients = [torch.where(is_kept, old, new) for old, new in zip(momenta, gradients, strict=True)]
        torch._foreach_lerp_(momenta, gradients, 1 - momentum)
        return torch._foreach_lerp(gradients, momenta, momentum)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum_buffer"]
        return momentum


def alike(matrices: Sequence[Tensor]) -> Iterator[list[int]]:
    """The indices of matrices that can share their products: of equal shapes, lying or standing."""
    shapes = defaultdict(list)
    for index, matrix in enumerate(matrices):
        shapes[tuple(sorted(matrix.shape))].append(index)
    for indices in shapes.values():
        at_once = AT_ONCE_ON_CPU if matrices[indices[0]].device.type == "cpu" else len(indices)
        yield from (indices[start : start + at_once] for start in range(0, len(indices), at_once))


def orthogonalised(matrices: Sequence[Tensor], coefficients: Coefficients) -> list[Tensor]:
    """Each matrix with singular values near 1."""
    directions = list(matrices)
    for indices in alike(matrices):
        lying = [matrices[i] if is_lying(matrices[i]) else matrices[i].mT for i in indices]
        for i, direction in zip(indices, orthogonalise(torch.stack(lying), coefficients), strict=True):
            directions[i] = direction if is_lying(matrices[i]) else direction.mT
    return directions


def is_lying(matrix: Tensor) -> bool:
    rows, columns = matrix.shape
    return rows <= columns


def orthogonalise(x: Float[Tensor, "batch rows columns"], coefficients: Coefficients) -> Tensor:
    """Maps singular values s, at first at most 1, to a·s + b·s³ + c·s⁵, once for each triple (a, b, c).

    Not on the smaller Gram matrices: bfloat16 loses their small eigenvalues, and the iteration then diverges.
    """
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for a, b, c in coefficients:
        gram = torch.bmm(x, x.mT)
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, factor, x, beta=a)
    return x
