"""How much faster than torch is a step of the quantised network on a processor?

Question. Of a network of a preset's size: milliseconds of one run over a canvas, one thread, in torch (eager, float32)
and in onnxruntime: float32, and the dynamic int8 network that a bundle ships.

Method. Random weights (time does not depend on them), half of the canvas masked. The arms take turns, a run each, so
that whatever else the machine does meets all of them; medians, tenths and minima of the wall clock, and of the
process's own processor time, which other programs disturb less. Ratios are torch's figure divided by the arm's.

    OMP_NUM_THREADS=1 python benchmarks/int8_speed.py --preset small --repeats 60
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from ddlm.export import quantize
from ddlm.export.onnx import export_logits
from ddlm.model import PRESETS, ModelConfig
from ddlm.model.transformer import Denoiser

VOCAB_SIZE, SEQ_LEN = 8192, 256
Arm = Callable[[], object]


def network(preset: str) -> Denoiser:
    """Every layer acts: projections into the stream and the head start at zero in a fresh one."""
    torch.manual_seed(0)
    made = Denoiser(ModelConfig.model_validate({"preset": preset}), vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN).eval()
    with torch.no_grad():
        for weight in made.parameters():
            if weight.dim() == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)
    return made


def arms(model: Denoiser, folder: Path) -> dict[str, Arm]:
    ids = np.random.default_rng(0).integers(0, VOCAB_SIZE, (1, SEQ_LEN)).astype(np.int32)
    ids[:, ::2] = VOCAB_SIZE
    export_logits(model, SEQ_LEN, folder / "float32", 18)
    quantize.dynamic(folder / "float32", folder / "int8_dynamic", vocab_size=VOCAB_SIZE)
    quantize.dynamic(folder / "float32", folder / "int8_in_one_part", vocab_size=VOCAB_SIZE, twice=quantize.nothing)
    quantize.dynamic(folder / "float32", folder / "down_in_float32", vocab_size=VOCAB_SIZE, keep=quantize.narrows)
    given = torch.from_numpy(ids).long()

    def eager() -> object:
        with torch.inference_mode():
            return model(given)

    return {"torch": eager, **{path.name: onnx_arm(path, ids) for path in sorted(folder.iterdir())}}


def onnx_arm(path: Path, ids: np.ndarray) -> Arm:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["logits"], {"ids": ids})


def take_turns(runs: dict[str, Arm], repeats: int) -> dict[str, dict[str, float]]:
    wall: dict[str, list[float]] = {name: [] for name in runs}
    own: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 2):
        for name, run in runs.items():
            before, own_before = time.perf_counter(), time.process_time()
            run()
            if turn >= 2:
                wall[name].append(1000 * (time.perf_counter() - before))
                own[name].append(1000 * (time.process_time() - own_before))
    return {name: figures(wall[name], own[name]) for name in runs}


def figures(wall_ms: list[float], own_ms: list[float]) -> dict[str, float]:
    return {
        "wall_ms": float(np.median(wall_ms)),
        "wall_ms_p10": float(np.quantile(wall_ms, 0.1)),
        "wall_ms_min": min(wall_ms),
        "own_ms": float(np.median(own_ms)),
        "own_ms_min": min(own_ms),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--repeats", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = network(args.preset)
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = take_turns(arms(model, Path(folder)), args.repeats)
    for of in found.values():
        of["times_faster"] = {name: found["torch"][name] / of[name] for name in list(of)}
    where = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()}
    versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    settings = {"preset": args.preset, "parameters": model.num_parameters(), "repeats": args.repeats, "threads": 1}
    print(json.dumps({**settings, **where, **versions, "arms": found}, indent=1))


if __name__ == "__main__":
    main()
