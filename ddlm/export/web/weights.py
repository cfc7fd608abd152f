"""A graph a quarter the size: its matrices stand as int8 in the file and are float32 again once it is loaded.

Only the file is small: onnxruntime computes the constants when it loads the graph, and from there on all arithmetic is
float32. So the text of a seed is the same in a browser and in Python. With the dynamic scheme of `quantize`, which
rounds activations too, the last bit of a norm can move an activation to the next integer, and texts part.
"""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ddlm.artifacts import write_atomically
from ddlm.export.integers import per_output
from ddlm.export.quantize import is_weight


def shrink(source: Path, target: Path) -> None:
    """Each matrix becomes int8 with a scale for every output of a layer, for every token of the embedding."""
    model = onnx.load(source)
    graph = model.graph
    by_row = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    matrices = [tensor for tensor in graph.initializer if is_weight(tensor)]
    rebuilding = [node for tensor in matrices for node in _replace(graph, tensor, tensor.name in by_row)]
    nodes = [*rebuilding, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    write_atomically(target, model.SerializeToString(deterministic=True))


def _replace(graph: onnx.GraphProto, tensor: TensorProto, by_row: bool) -> list[NodeProto]:
    """Store a matrix as integers and scales. Returns the nodes that make it again, under its name."""
    name, (integers, scale) = tensor.name, nearest(numpy_helper.to_array(tensor), by_row)
    graph.initializer.remove(tensor)
    graph.initializer.append(numpy_helper.from_array(integers, f"{name}_int8"))
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
    return [
        helper.make_node("Cast", [f"{name}_int8"], [f"{name}_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_float", f"{name}_scale"], [name]),
    ]


def nearest(weight: NDArray[np.generic], by_row: bool) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers of the weight's shape, and scales that broadcast: one for each row, else for each column."""
    if by_row:
        integers, scale = per_output(weight.T)
        return np.ascontiguousarray(integers.T), scale[:, None]
    integers, scale = per_output(weight)
    return integers, scale[None]
