"""The model as ONNX graphs: static shapes, plain operators, one file each.

Two kinds. A `logits` graph is the network: `ids` int32 [1, l] to `logits` float32 [1, l, v]. A `step` graph has the
choice of positions and tokens behind it (`runtime.step` has its signature), so that any network graph, also one whose
weights were quantised, becomes a step.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from ddlm.artifacts import write_atomically
from ddlm.export.choice import Choice, Vocabulary
from ddlm.export.runtime import step
from ddlm.model.transformer import Block, Denoiser

LOGITS = "logits"
CHOICE_NAMES = "choice."


class Canvas(nn.Module):
    """The denoiser behind an int32 input: TensorRT binds int64 inputs as int64 and then carries twice the bytes.

    Segments are counted by comparing positions, since TensorRT 10.3 runs CumSum as a loop.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.end_id = denoiser.end_id if isinstance(denoiser, Denoiser) and denoiser.config.segment_mask else None

    def forward(self, ids: Tensor) -> Tensor:
        if self.end_id is None:
            return self.denoiser(ids.long())  # type: ignore[no-any-return]
        position = torch.arange(ids.shape[1])
        is_before = position[:, None] > position
        ends_before = ((ids == self.end_id)[:, None] & is_before).float().sum(-1)
        return self.denoiser(ids.long(), ends_before.long())  # type: ignore[no-any-return]


def halved(model: Denoiser) -> Denoiser:
    """A copy in float16, norms and logits still computed in float32.

    What computes time features stays in float32 altogether: they are tiny, and 1000 times a share of masks loses places
    in float16.
    """
    half = copy.deepcopy(model).half()
    half.rotary = model.rotary
    if model.config.time_conditioning:
        half.time.float()
        for block in half.blocks:
            assert isinstance(block, Block)
            block.modulation.float()
    return half


def export_logits(model: nn.Module, seq_len: int, path: Path, opset: int) -> None:
    """Write the network graph of a CPU model in eval mode: the same bytes for the same weights."""
    ids = torch.zeros(1, seq_len, dtype=torch.int32)
    write(exported(Canvas(model), (ids,), ["ids"], LOGITS, opset), path)


@cache
def choice_graph(vocabulary: Vocabulary, limits: step.Limits, opset: int) -> onnx.ModelProto:
    """The same for every network with this vocabulary; it is a hundred times smaller and takes as long to export."""
    inputs = step.inputs_of(limits.length)
    logits = torch.zeros(1, limits.length, vocabulary.size)
    given = [torch.zeros(shape, dtype=getattr(torch, dtype)) for dtype, shape in inputs.values()]
    return exported(Choice(vocabulary, limits), (logits, *given), [LOGITS, *inputs], step.OUTPUT, opset)


def export_step(network: Path, choice: onnx.ModelProto, path: Path) -> None:
    """Write the network graph of a file with the choice behind it. The choice stays as it is."""
    whole = onnx.load(network)
    behind = onnx.compose.add_prefix(choice, CHOICE_NAMES, rename_inputs=False, rename_outputs=False)
    given = {value.name for value in whole.graph.input} | {LOGITS}
    whole.graph.node.extend(behind.graph.node)
    whole.graph.initializer.extend(behind.graph.initializer)
    whole.graph.value_info.extend([*whole.graph.output, *behind.graph.value_info])
    whole.graph.input.extend(value for value in behind.graph.input if value.name not in given)
    del whole.graph.output[:]
    whole.graph.output.extend(behind.graph.output)
    write(whole, path)


def exported(
    module: nn.Module, given: tuple[Tensor, ...], inputs: Sequence[str], output: str, opset: int
) -> onnx.ModelProto:
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(), given, dynamo=True, opset_version=opset, external_data=False,
            input_names=list(inputs), output_names=[output], verbose=False,
        )  # fmt: skip
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    strip_machine(model)
    return model


def write(model: onnx.ModelProto, path: Path) -> None:
    write_atomically(path, model.SerializeToString(deterministic=True))


def strip_machine(model: onnx.ModelProto) -> None:
    """Remove the stack traces and source paths that the exporter leaves on everything."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


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
