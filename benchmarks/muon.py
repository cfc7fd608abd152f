"""How well and how fast do Muon's iterations orthogonalise, in bfloat16, all matrices of a model at once?

python benchmarks/muon.py [--momenta FILE] [--d-model 384 --layers 6 --d-ff 1024] [--repeats 5] [--json]

--momenta: optimizer0.safetensors of a checkpoint trained with Muon. Without it, random matrices whose first singular
value holds most of the norm, as in early momenta, and whose others are spread evenly in logarithms, 0.1 to 0.00003.
Columns are quantiles of singular values: of the matrices, divided by their norms, and of the directions along the
matrices' polar factors, so that a wrong direction counts as a low value.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ddlm.training.muon import POLAR_EXPRESS, Coefficients, orthogonalised

JORDAN = (3.4445, -4.7750, 2.0315)
ROOM_FOR_BFLOAT16 = 1.01
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def main() -> None:
    options = parsed()
    matrices = momenta(options.momenta) if options.momenta else synthetic(options)
    figures = {
        "threads": torch.get_num_threads(),
        "matrices": len(matrices),
        "before": quantiles(torch.cat([spectrum(matrix) for matrix in matrices])),
        "variants": [measured(name, matrices, used, options.repeats) for name, used in variants().items()],
    }
    print(json.dumps(figures, indent=2) if options.json else table(figures))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--momenta", type=Path)
    parser.add_argument("--d-model", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--d-ff", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def variants() -> dict[str, Coefficients]:
    """The usual five iterations first; then fewer; then the best for singular values from `lowest` on."""
    return {
        "jordan x5": [JORDAN] * 5,
        "jordan x4": [JORDAN] * 4,
        "jordan x3": [JORDAN] * 3,
        "polar x3 from 0.001": best_iterations(0.001, 3),
        "polar x4 from 0.001": best_iterations(0.001, 4),
        "polar x5 from 0.0005": best_iterations(0.0005, 5),
        "default": POLAR_EXPRESS,
    }


def best_iterations(lowest: float, count: int) -> Coefficients:
    """For each iteration the quintic nearest to 1 on the interval that the ones before leave. Source: Polar Express."""
    found, low, high = [], lowest, 1.0
    for number in range(count):
        (a, b, c), error = nearest_to_one(low, high)
        room = ROOM_FOR_BFLOAT16 if number < count - 1 else 1.0
        found.append((a / room, b / room**3, c / room**5))
        low, high = 1 - error, 1 + error
    return found


def nearest_to_one(low: float, high: float) -> tuple[tuple[float, float, float], float]:
    """a·x + b·x³ + c·x⁵ with the smallest largest distance to 1 on [low, high], and that distance. Remez' algorithm."""
    first, second = (3 * low + high) / 4, (low + 3 * high) / 4
    for _ in range(100):
        rows = [[x, x**3, x**5, sign] for x, sign in zip((low, first, second, high), (1, -1, 1, -1), strict=True)]
        a, b, c, error = np.linalg.solve(np.array(rows), np.ones(4)).tolist()
        root = (9 * b * b - 20 * a * c) ** 0.5
        first, second = sorted((((-3 * b - root) / (10 * c)) ** 0.5, ((-3 * b + root) / (10 * c)) ** 0.5))
    return (a, b, c), abs(error)


def momenta(path: Path) -> list[Tensor]:
    return [value.float() for name, value in load_file(path).items() if name.endswith("momentum_buffer")]


def synthetic(options: argparse.Namespace) -> list[Tensor]:
    torch.manual_seed(1)
    width, inner = options.d_model, options.d_ff
    shapes = [(width, width)] * 4 + [(inner, width)] * 2 + [(width, inner)]
    return [with_heavy_tail(*shape) for _ in range(options.layers) for shape in shapes]


def with_heavy_tail(rows: int, columns: int) -> Tensor:
    left, _, right = torch.linalg.svd(torch.randn(rows, columns), full_matrices=False)
    values = torch.logspace(-1, -4.5, min(rows, columns))
    values[0] = 1.0
    return (left * values) @ right


def measured(name: str, matrices: list[Tensor], used: Coefficients, repeats: int) -> dict[str, object]:
    inputs = [matrix.bfloat16() for matrix in matrices]
    directions = orthogonalised(inputs, used)
    reached = torch.cat([along_polar_factor(*pair) for pair in zip(matrices, directions, strict=True)])
    return {
        "name": name,
        "ms": 1000 * best_of(repeats, lambda: orthogonalised(inputs, used)),
        "slope_at_0": float(np.prod([a for a, _, _ in used])),
        "largest": max(float(torch.linalg.matrix_norm(direction.float(), 2)) for direction in directions),
        "after": quantiles(reached),
    }


def along_polar_factor(matrix: Tensor, direction: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left.mT @ direction.float() @ right.mT).diagonal()


def spectrum(matrix: Tensor) -> Tensor:
    return torch.linalg.svdvals(matrix / torch.linalg.matrix_norm(matrix))


def quantiles(values: Tensor) -> dict[str, float]:
    found = torch.quantile(values, torch.tensor(QUANTILES)).tolist()
    return {str(quantile): value for quantile, value in zip(QUANTILES, found, strict=True)}


def best_of(repeats: int, call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def table(figures: dict[str, object]) -> str:
    head = f"{'':22}{'ms':>8}{'slope':>8}{'largest':>9}" + "".join(f"{quantile:>9}" for quantile in QUANTILES)
    lines = [head, f"{'before':47}" + row(figures["before"])]
    for variant in figures["variants"]:  # type: ignore[attr-defined]
        numbers = f"{variant['ms']:8.1f}{variant['slope_at_0']:8.0f}{variant['largest']:9.2f}"
        lines.append(f"{variant['name']:22}{numbers}" + row(variant["after"]))
    return "\n".join(lines)


def row(values: object) -> str:
    return "".join(f"{value:9.4f}" for value in values.values())  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
