"""What a graph must pass before it goes into a bundle."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ddlm.config import installing
from ddlm.export import MAX_OPSET, ExportConfig
from ddlm.model.attention import RMSNorm

NOISE_LEVELS = (0.25, 0.5, 0.75, 1.0)
"""Masked shares at which the two runtimes are compared."""
OPERATORS = set(
    """Add And ArgMax Cast Clip Concat Constant Cos DequantizeLinear Div Equal Exp Expand Gather GatherElements
    Gemm Greater GreaterOrEqual Identity IsNaN Less LessOrEqual Log MatMul Max Min Mul Neg Not Or Pad Pow
    QuantizeLinear Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Shape Sigmoid Sin Slice
    Softmax Split Sqrt Squeeze Sub Tanh TopK Transpose Unsqueeze Where""".split()  # noqa: SIM905
)
"""What TensorRT 10.3 reads, of what a network could need. It reads CumSum, If, Loop and Scan too, but runs them as
loops, which no CUDA graph captures."""
LARGEST_ACTIVATION = 3e4
"""float16 ends at 65504."""
PASSED, SKIPPED = "passed", "SKIPPED"


class GraphError(ValueError):
    """The graph is not what the bundle promises."""


@dataclass(frozen=True)
class Gate:
    """A check that a graph went through. figures: what was measured."""

    name: str
    graph: str
    result: str
    detail: str = ""


def as_json(gates: Sequence[Gate]) -> list[dict[str, str]]:
    return [asdict(gate) for gate in gates]


# The file


def checker(path: Path) -> Gate:
    """Raises: GraphError for an invalid graph."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"{path.name}: the onnx checker refuses it: {' '.join(str(error).split())[:200]}") from None
    return Gate("onnx checker", path.name, PASSED)


def form(path: Path) -> list[Gate]:
    """Raises: GraphError for an invalid graph, or one that TensorRT 10.3 can't read from one file."""
    valid = checker(path)
    model = onnx.load(path, load_external_data=False)
    opset = max(entry.version for entry in model.opset_import)
    if opset > MAX_OPSET:
        raise GraphError(f"{path.name} has opset {opset}; TensorRT 10.3 reads up to {MAX_OPSET}")
    used = {_full_name(node) for node in model.graph.node}
    if foreign := sorted(used - OPERATORS):
        raise GraphError(f"{path.name} uses {', '.join(foreign)}; TensorRT 10.3 is not sure to read that")
    if outside := [tensor.name for tensor in model.graph.initializer if tensor.external_data]:
        raise GraphError(f"{path.name} keeps {outside[0]} outside the file; the bundle ships one file")
    size = path.stat().st_size
    found = {"opset": str(opset), "operators": f"{len(used)} kinds", "one file": f"{size / 1e6:.1f} MB"}
    return [valid, *(Gate(name, path.name, PASSED, detail) for name, detail in found.items())]


def _full_name(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)


# What it computes


def masked_batches(rows: NDArray[np.int32], mask_id: int, seed: int) -> list[NDArray[np.int32]]:
    """Each row masked at every noise level: one batch a row. At least one position is masked."""
    generator = np.random.default_rng(seed)
    batches = []
    for row in rows:
        counts = [max(1, round(level * len(row))) for level in NOISE_LEVELS]
        ranks = np.stack([generator.permutation(len(row)) for _ in counts])
        batches.append(np.where(ranks < np.array(counts)[:, None], mask_id, row).astype(np.int32))
    return batches


def compare(path: Path, model: nn.Module, batches: Sequence[NDArray[np.int32]], *, mask_id: int) -> dict[str, float]:
    """Set a logits graph in onnxruntime on the CPU beside torch, at the masked positions: sampling reads no others.

    Returns the largest difference of logits, the share of equal best tokens, and KL(torch ‖ onnxruntime) in nats.
    """
    session = open_session(path)
    differences, agreements, divergences = [], [], []
    for batch in batches:
        is_masked = batch == mask_id
        ours = torch.from_numpy(run_session(session, batch)[is_masked]).double()
        with torch.inference_mode():
            theirs = model(torch.from_numpy(batch).long())[torch.from_numpy(is_masked)].double()
        differences.append((ours - theirs).abs().max().item())
        agreements.append((ours.argmax(-1) == theirs.argmax(-1)).double())
        divergences.append(kl_nats(theirs, ours))
    return {
        "max_logit_difference": max(differences),
        "top1_agreement": torch.cat(agreements).mean().item(),
        "mean_kl_nats": torch.cat(divergences).mean().item(),
        "positions": len(torch.cat(agreements)),
    }


def parity(graph: str, figures: dict[str, float], precision: str, export: ExportConfig) -> Gate:
    """float32 must give the same logits, float16 nearly the same distribution. Raises: GraphError otherwise."""
    difference, agreement, nats = (figures[name] for name in list(figures)[:3])
    if precision == "float32":
        if not difference <= export.max_logit_difference:
            raise GraphError(
                f"{graph}: onnxruntime's logits differ from torch's by {difference:.3g}, "
                f"wanted at most export.max_logit_difference = {export.max_logit_difference:g}"
            )
        return Gate("parity with torch", graph, PASSED, f"logits differ by {difference:.2g} at most")
    if not (agreement >= export.min_top1_agreement and nats <= export.max_kl_nats):
        raise GraphError(
            f"{graph}: {agreement:.2%} of the best tokens are float32's and the KL is {nats:.2g} nats, wanted at least "
            f"export.min_top1_agreement = {export.min_top1_agreement:g} and "
            f"at most export.max_kl_nats = {export.max_kl_nats:g}"
        )
    return Gate("parity with torch", graph, PASSED, f"{agreement:.2%} the same best token, KL {nats:.1e} nats")


def open_session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run_session(session: onnxruntime.InferenceSession, batch: NDArray[np.int32]) -> NDArray[np.float32]:
    """Logits of a batch, row by row: the graph's batch is 1."""
    return np.concatenate([session.run(["logits"], {"ids": row[None]})[0] for row in batch])


def kl_nats(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


# What float16 can hold


def activations(model: nn.Module, batches: Sequence[NDArray[np.int32]]) -> tuple[Gate, dict[str, float]]:
    """The largest absolute value that goes into or comes out of any layer, and sum of squares in a norm, in float32.

    onnxruntime computes float16 in float32 on a CPU, so its parity says nothing about overflows on a GPU. Sums of
    squares stay in float32 in the graph as well: they must be finite alone. Raises: GraphError naming the layer.
    """
    largest, squares = {"nothing": 0.0}, [0.0]
    with _watched(model, largest, squares), torch.inference_mode():
        for batch in batches:
            model(torch.from_numpy(batch).long())
    layer = max(largest, key=lambda name: math.inf if math.isnan(largest[name]) else largest[name])
    found = {"largest_activation": largest[layer], "largest_sum_of_squares": max(squares)}
    if not (found["largest_activation"] < LARGEST_ACTIVATION and math.isfinite(found["largest_sum_of_squares"])):
        raise GraphError(
            f"activations reach {largest[layer]:.3g} in {layer}, wanted less than {LARGEST_ACTIVATION:g}, half of "
            'what float16 holds; export.precisions = ["float32"] leaves float16 out'
        )
    return Gate("activations", "float16", PASSED, f"at most {largest[layer]:.3g}, in {layer}"), found


@contextmanager
def _watched(model: nn.Module, largest: dict[str, float], squares: list[float]) -> Iterator[None]:
    def watch(name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], result: Any) -> None:
            values = [value for value in (*given, result) if isinstance(value, Tensor) and value.is_floating_point()]
            peak = torch.stack([value.abs().amax() for value in values]).amax().item() if values else 0.0
            largest[name] = peak if math.isnan(peak) else max(largest.get(name, 0.0), peak)
            if isinstance(module, RMSNorm):
                squares.append(given[0].float().square().sum(-1).amax().item())

        return module.register_forward_hook(hook)

    handles = [watch(name, module) for name, module in model.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# What TensorRT says


def tensorrt(path: Path) -> Gate:
    """Whether TensorRT-RTX parses and builds the graph.

    It is a newer product than the Jetson's TensorRT 10.3, and its engines don't run there. Raises: GraphError with what
    it says.
    """
    name = "TensorRT-RTX"
    if find_spec("tensorrt_rtx") is None:
        return Gate(name, path.name, SKIPPED, f"not installed: run {installing('tensorrt-check')}")
    done = subprocess.run(
        [sys.executable, "-m", "ddlm.export.rtx", str(path.resolve())], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1]
        raise GraphError(f"{path.name}: TensorRT-RTX broke down: {last[:200]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if "error" in found:
        raise GraphError(f"{path.name}: TensorRT-RTX {found['version']} refuses it: {found['error'][:300]}")
    return Gate(name, path.name, PASSED, f"{found['version']}: {found['layers']} layers, {found['engine_bytes']} bytes")
