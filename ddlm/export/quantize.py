"""Integers in place of floats: the linear layers of a graph quantised, everything else left as it is.

Works on every graph whose linear layers are MatMuls by an initializer, with or without the sampling behind the head.
Attention multiplies two activations and stays; so do embedding and norms. A tied head, which is cut out of the
embedding inside the graph, stays too. onnxruntime's own tool is not used: it ties ranges to tensor names of one graph,
keeps every activation of all batches, and quantises outliers with everything else.

Schemes, all symmetric, with a scale for each output of a layer:
dynamic  for CPUs: int8 weights, uint8 activations whose range is found at each run. TensorRT does not read it.
static   for TensorRT: int8 weights and activations of known range, between QuantizeLinear and DequantizeLinear.
int4     an experiment: weights alone, a scale for every 32 inputs of each output.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ddlm.artifacts import write_atomically
from ddlm.export.integers import BLOCK, Array, per_block, per_output, scale_of, two_in_a_byte

PERCENTILE = 99.999
"""Of the absolute values of an activation. What is larger is clipped, else one in 100,000 would set the scale."""
STATIC_OPSET, INT4_OPSET = 19, 21
"""From where QuantizeLinear takes float16, and DequantizeLinear int4 and blocks."""

Feed = dict[str, NDArray[np.generic]]


class QuantizationError(ValueError):
    """The graph can't be quantised this way."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A MatMul by a weight of the network: [inputs, outputs], as x @ weight."""

    node: NodeProto
    weight: Array
    is_head: bool


Keep = Callable[[Linear], bool]
"""Which layers stay as they are."""


def nothing(_: Linear) -> bool:
    return False


def narrows(linear: Linear) -> bool:
    """The feed-forward layer's `down`: its input, a product of two activations, has outliers that no other has."""
    inputs, outputs = linear.weight.shape
    return bool(inputs > outputs)


def head_and_down(linear: Linear) -> bool:
    return linear.is_head or narrows(linear)


def head(linear: Linear) -> bool:
    return linear.is_head


# What there is to quantise


def linears_of(model: onnx.ModelProto, vocab_size: int) -> list[Linear]:
    """In the order of the graph. What comes after the head is sampling, and none of it is a layer.

    Raises: QuantizationError when there is none.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer if is_weight(tensor)}
    network = model.graph.node[: _end_of_network(model.graph, vocab_size)]
    layers = [
        Linear(node, numpy_helper.to_array(weights[node.input[1]]), weights[node.input[1]].dims[1] == vocab_size)
        for node in network
        if node.op_type == "MatMul" and node.input[1] in weights
    ]
    if not layers:
        raise QuantizationError("no MatMul by an initializer in the graph: nothing to quantise")
    return layers


def is_weight(tensor: TensorProto) -> bool:
    return len(tensor.dims) == 2 and tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)


def _end_of_network(graph: onnx.GraphProto, vocab_size: int) -> int:
    """The place behind the head: the last MatMul by an initializer of its width, or by what is made of initializers."""
    widths = {tensor.name: tensor.dims[-1] if tensor.dims else 0 for tensor in graph.initializer}
    constants, end = set(widths), 0
    for place, node in enumerate(graph.node):
        if constants.issuperset(node.input):
            constants.update(node.output)
        elif node.op_type == "MatMul" and node.input[1] in constants:
            end = place + 1 if widths.get(node.input[1], vocab_size) == vocab_size else end
    return end


# Ranges of activations


def calibrate(path: Path, feeds: Sequence[Feed], *, vocab_size: int, percentile: float = PERCENTILE) -> list[float]:
    """The range of each layer's input over all feeds, in the layers' order: what `static` needs, for this graph and for
    any other of the same network. The percentile is exact: of each input only the largest values are kept.

    feeds: of real text, masked at all noise levels. Clean text would give ranges that sampling never has.
    """
    model = onnx.load(path)
    names = [linear.node.input[0] for linear in linears_of(model, vocab_size)]
    asked = list(dict.fromkeys(names))
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    largest: dict[str, NDArray[np.float32]] = {}
    for feed in feeds:
        for name, values in zip(asked, session.run(asked, feed), strict=True):
            above = int(values.size * len(feeds) * (1 - percentile / 100))
            largest[name] = _top(largest.get(name, np.empty(0, np.float32)), values, above + 1)
    return [float(largest[name].min()) for name in names]


def _top(kept: NDArray[np.float32], values: Array, count: int) -> NDArray[np.float32]:
    """The largest absolute values so far, `count` of them."""
    joined = np.concatenate([kept, np.abs(values.astype(np.float32)).ravel()])
    return np.partition(joined, -count)[-count:] if len(joined) > count else joined


# The schemes


def dynamic(source: Path, target: Path, *, vocab_size: int, keep: Keep = nothing, twice: Keep = narrows) -> None:
    """twice: layers whose input is quantised in two parts, a coarse one and what that leaves. One range for all would
    be set by outliers far larger than what matters.

    Raises: QuantizationError for a graph in float16, whose activations can't be measured on the way.
    """
    model = onnx.load(source)
    linears = _chosen(model, vocab_size, keep)
    if any(linear.weight.dtype != np.float32 for linear in linears):
        raise QuantizationError(f"{source.name} is in float16: the dynamic scheme is for float32 graphs")
    ready: set[str] = set()

    def rewrite(linear: Linear) -> Iterator[Part]:
        (x, weight), y = linear.node.input, linear.node.output[0]
        integers, scale = per_output(linear.weight)
        yield from _integers(weight, integers, scale)
        if x not in ready:
            yield node("DynamicQuantizeLinear", [x], _quantised(x))
        ready.add(x)
        if not twice(linear):
            yield from _product(x, weight, y)
            return
        yield node("DequantizeLinear", _quantised(x), [f"{y}_coarse_x"])
        yield node("Sub", [x, f"{y}_coarse_x"], [f"{y}_rest_x"])
        yield node("DynamicQuantizeLinear", [f"{y}_rest_x"], _quantised(f"{y}_rest_x"))
        yield from _product(x, weight, f"{y}_coarse")
        yield from _product(f"{y}_rest_x", weight, f"{y}_rest")
        yield node("Add", [f"{y}_coarse", f"{y}_rest"], [y])

    _replace(model, linears, rewrite, opset=0)
    _write(model, target)


def _product(x: str, weight: str, y: str) -> Iterator[NodeProto]:
    """Of what is quantised already; in the form that onnxruntime fuses into one kernel."""
    integers, x_scale, x_zero = _quantised(x)
    other, scale, zero = _quantised(weight)
    yield node("MatMulInteger", [integers, other, x_zero, zero], [f"{y}_int32"])
    yield node("Cast", [f"{y}_int32"], [f"{y}_float"], to=TensorProto.FLOAT)
    yield node("Mul", [x_scale, scale], [f"{y}_scale"])
    yield node("Mul", [f"{y}_float", f"{y}_scale"], [y])


def static(source: Path, target: Path, ranges: Sequence[float], *, vocab_size: int, keep: Keep = head_and_down) -> None:
    """ranges: as `calibrate` gives them, one for each layer, also for those that stay."""
    model = onnx.load(source)
    layers = linears_of(model, vocab_size)
    if len(ranges) != len(layers):
        raise QuantizationError(f"{source.name} has {len(layers)} linear layers, got ranges of {len(ranges)}")
    range_of = {linear.node.input[0]: value for linear, value in zip(layers, ranges, strict=True)}
    ready: set[str] = set()

    def rewrite(linear: Linear) -> Iterator[Part]:
        x, weight = linear.node.input
        integers, scale = per_output(linear.weight)
        if x not in ready:
            yield numpy_helper.from_array(scale_of(np.array(range_of[x]), 127, linear.weight.dtype), f"{x}_scale")
            yield numpy_helper.from_array(np.array(0, np.int8), f"{x}_zero")
            yield node("QuantizeLinear", [x, f"{x}_scale", f"{x}_zero"], [f"{x}_int8"])
            yield node("DequantizeLinear", _quantised(x), [f"{x}_near"])
        ready.add(x)
        yield from _integers(weight, integers, scale)
        yield node("DequantizeLinear", _quantised(weight), [f"{weight}_near"], axis=1)
        yield _with_inputs(linear.node, [f"{x}_near", f"{weight}_near"])

    _replace(model, [linear for linear in layers if not keep(linear)], rewrite, opset=STATIC_OPSET)
    _write(model, target)


def int4(source: Path, target: Path, *, vocab_size: int, keep: Keep = head) -> None:
    """Layers whose inputs are no multiple of 32 stay."""
    model = onnx.load(source)

    def rewrite(linear: Linear) -> Iterator[Part]:
        x, weight = linear.node.input
        integers, scale = per_block(linear.weight)
        shape, packed = integers.shape, two_in_a_byte(integers)
        yield helper.make_tensor(f"{weight}_int4", TensorProto.INT4, shape, packed, raw=True)
        yield numpy_helper.from_array(scale, f"{weight}_scale")
        stored = [f"{weight}_int4", f"{weight}_scale"]
        yield node("DequantizeLinear", stored, [f"{weight}_near"], axis=0, block_size=BLOCK)
        yield _with_inputs(linear.node, [x, f"{weight}_near"])

    whole = [linear for linear in _chosen(model, vocab_size, keep) if linear.weight.shape[0] % BLOCK == 0]
    _replace(model, whole, rewrite, opset=INT4_OPSET)
    _write(model, target)


# Rewriting

Part: TypeAlias = NodeProto | TensorProto
Rewrite = Callable[[Linear], Iterator[Part]]
node = helper.make_node


def _quantised(name: str) -> list[str]:
    """What stands for a tensor: its integers, their scale and their zero."""
    return [f"{name}_int8", f"{name}_scale", f"{name}_zero"]


def _integers(name: str, integers: NDArray[np.int8], scale: Array) -> Iterator[TensorProto]:
    for part, value in zip(_quantised(name), (integers, scale, np.zeros(scale.shape, np.int8)), strict=True):
        yield numpy_helper.from_array(value, part)


def _chosen(model: onnx.ModelProto, vocab_size: int, keep: Keep) -> list[Linear]:
    return [linear for linear in linears_of(model, vocab_size) if not keep(linear)]


def _with_inputs(node: NodeProto, inputs: Sequence[str]) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = inputs
    return copy


def _replace(model: onnx.ModelProto, linears: Sequence[Linear], rewrite: Rewrite, opset: int) -> None:
    """Put what `rewrite` gives in the place of each layer, and drop the weights that nothing reads any more."""
    graph = model.graph
    by_output = {linear.node.output[0]: linear for linear in linears}
    nodes: list[NodeProto] = []
    for node in graph.node:
        for part in rewrite(by_output[node.output[0]]) if node.output[0] in by_output else [node]:
            if isinstance(part, NodeProto):
                nodes.append(part)
            elif part.name not in {tensor.name for tensor in graph.initializer}:
                graph.initializer.append(part)
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = max(entry.version, opset)


def _write(model: onnx.ModelProto, target: Path) -> None:
    onnx.checker.check_model(model, full_check=True)
    write_atomically(target, model.SerializeToString(deterministic=True))
