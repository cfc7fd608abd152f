"""The denoiser as an ONNX graph, and the proof that it computes what torch computes.

The graph: `ids` int32 [1, seq_len] to `logits` float32 [1, seq_len, vocab_size], static shapes, plain operators.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ddlm.artifacts import write_atomically
from ddlm.export import MAX_OPSET

NOISE_LEVELS = (0.25, 0.5, 0.75, 1.0)
"""Masked shares at which the two runtimes are compared."""


class GraphError(ValueError):
    """The graph is not what the bundle promises."""


class Canvas(nn.Module):
    """The denoiser behind an int32 input: TensorRT binds int64 inputs as int64 and then carries twice the bytes."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, ids: Tensor) -> Tensor:
        return self.denoiser(ids.long())  # type: ignore[no-any-return]


def export_logits(model: nn.Module, seq_len: int, path: Path, opset: int) -> None:
    """Write the checked graph of a CPU model in eval mode: one file, the same bytes for the same weights."""
    ids = torch.zeros(1, seq_len, dtype=torch.int32)
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            Canvas(model).eval(), (ids,), dynamo=True, opset_version=opset, external_data=False,
            input_names=["ids"], output_names=["logits"], verbose=False,
        )  # fmt: skip
    assert program is not None
    exported = program.model_proto
    strip_machine(exported)
    write_atomically(path, exported.SerializeToString(deterministic=True))
    check(path)


def strip_machine(model: onnx.ModelProto) -> None:
    """Remove the stack traces and source paths that the exporter leaves on everything."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def check(path: Path) -> None:
    """Raises: onnx.checker.ValidationError for an invalid graph, GraphError for one that TensorRT 10.3 can't read."""
    onnx.checker.check_model(str(path), full_check=True)
    graph = onnx.load(str(path), load_external_data=False)
    opset = max(entry.version for entry in graph.opset_import)
    if opset > MAX_OPSET:
        raise GraphError(f"{path.name} has opset {opset}; TensorRT 10.3 reads up to {MAX_OPSET}")
    outside = [tensor.name for tensor in graph.graph.initializer if tensor.external_data]
    if outside:
        raise GraphError(f"{path.name} keeps {outside[0]} outside the file; the bundle ships one file")


def masked_batches(rows: NDArray[np.int32], mask_id: int, seed: int) -> list[NDArray[np.int32]]:
    """Each row masked at every noise level: one batch a row. At least one position is masked."""
    generator = np.random.default_rng(seed)
    batches = []
    for row in rows:
        counts = [max(1, round(level * len(row))) for level in NOISE_LEVELS]
        ranks = np.stack([generator.permutation(len(row)) for _ in counts])
        batches.append(np.where(ranks < np.array(counts)[:, None], mask_id, row).astype(np.int32))
    return batches


def parity(
    path: Path, model: nn.Module, batches: Sequence[NDArray[np.int32]], *, mask_id: int, max_logit_difference: float
) -> dict[str, float]:
    """Compare onnxruntime on the CPU with torch at the masked positions, the only ones that sampling reads.

    Returns the largest difference of logits, the share of equal best tokens, and KL(torch ‖ onnxruntime) in nats.
    Raises: GraphError when the logits differ by more than `max_logit_difference`.
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
    result = {
        "max_logit_difference": max(differences),
        "top1_agreement": torch.cat(agreements).mean().item(),
        "mean_kl_nats": torch.cat(divergences).mean().item(),
        "positions": len(torch.cat(agreements)),
    }
    if not result["max_logit_difference"] <= max_logit_difference:
        raise GraphError(
            f"{path.name}: onnxruntime's logits differ from torch's by {result['max_logit_difference']:.3g}, "
            f"wanted at most export.max_logit_difference = {max_logit_difference:g}"
        )
    return result


def open_session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run_session(session: onnxruntime.InferenceSession, batch: NDArray[np.int32]) -> NDArray[np.float32]:
    """Logits of a batch, row by row: the graph's batch is 1."""
    return np.concatenate([session.run(["logits"], {"ids": row[None]})[0] for row in batch])


def kl_nats(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hides what the exporter says about itself: torchvision is absent, a tree type is deprecated."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
