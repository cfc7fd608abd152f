import re

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from ddlm.export import gates
from ddlm.export.onnx import export_logits, halved
from ddlm.export.runtime import step
from ddlm.model import ModelConfig
from ddlm.model.transformer import Denoiser

SEQ_LEN, VOCAB_SIZE = 8, 20
GRAPHS = ("model.onnx", "step_float32.onnx", "step_float16.onnx")
TYPES = {"int32": TensorProto.INT32, "float32": TensorProto.FLOAT}


def described(value):
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, tuple(dim.dim_value for dim in tensor.shape.dim)


def test_the_network_takes_int32_ids_and_gives_float32_logits_in_fixed_shapes(bundle, pipeline):
    graph = onnx.load(bundle / "model.onnx").graph
    length, vocab_size = pipeline.seq_len, pipeline.tokenizer.vocab_size
    assert [described(value) for value in graph.input] == [("ids", TensorProto.INT32, (1, length))]
    assert [described(value) for value in graph.output] == [("logits", TensorProto.FLOAT, (1, length, vocab_size))]


@pytest.mark.parametrize("name", GRAPHS[1:])
def test_a_step_has_the_signature_that_the_runtime_speaks(bundle, pipeline, name):
    graph = onnx.load(bundle / name).graph
    wanted = step.inputs_of(pipeline.seq_len).items()
    assert [described(value) for value in graph.input] == [(name, TYPES[kind], shape) for name, (kind, shape) in wanted]
    assert [described(value) for value in graph.output] == [("written", TensorProto.INT32, (1, pipeline.seq_len))]


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_has_the_configured_opset_and_one_domain(bundle, name):
    assert {(entry.domain, entry.version) for entry in onnx.load(bundle / name).opset_import} == {("", 18)}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_file_names_no_path_of_the_machine_that_made_it(bundle, name):
    data = (bundle / name).read_bytes()
    assert not re.search(rb"\.py\b|stack_trace|site-packages|/home/|/tmp/|/root/", data)
    assert b"metadata" not in data


def test_a_float16_step_has_float16_weights_and_norms_in_float32(bundle):
    graph = onnx.load(bundle / "step_float16.onnx").graph
    matrices = [tensor for tensor in graph.initializer if len(tensor.dims) == 2 and "choice" not in tensor.name]
    learnt = [tensor for tensor in matrices if min(tensor.dims) > 16]
    assert {tensor.data_type for tensor in learnt} == {TensorProto.FLOAT16}
    maker = {name: node for node in graph.node for name in node.output}
    squares = [node for node in graph.node if node.op_type == "Pow"]
    assert len(squares) == 2 * 4 + 1
    for node in squares:
        cast = maker[node.input[0]]
        assert cast.op_type == "Cast"
        assert cast.attribute[0].i == TensorProto.FLOAT


def test_a_float16_file_has_half_the_size(bundle):
    large, small = ((bundle / name).stat().st_size for name in GRAPHS[1:])
    weights = sum(numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(bundle / "model.onnx").graph.initializer)
    assert large - small == pytest.approx(weights / 2, rel=0.2)


MODELS = {
    "with time": {"time_conditioning": True, "tied_head": True, "logit_soft_cap": 15.0},
    "with segments, in blocks": {
        "segment_mask": True, "activation": "relu2", "attention": "block_causal", "block_size": 4,
    },
}  # fmt: skip
CASES = [("with time", "float32"), ("with time", "float16"), ("with segments, in blocks", "float16")]


@pytest.mark.parametrize(("kind", "precision"), CASES)
def test_every_kind_of_network_becomes_a_graph(kind, precision, tmp_path):
    model = small(**MODELS[kind])
    rows = np.random.default_rng(0).integers(0, VOCAB_SIZE, (3, SEQ_LEN), dtype=np.int32)
    path = tmp_path / "model.onnx"
    export_logits(halved(model) if precision == "float16" else model, SEQ_LEN, path, 18)
    gates.form(path)
    found = gates.compare(path, model, gates.masked_batches(rows, VOCAB_SIZE, 0), mask_id=VOCAB_SIZE)
    assert found["max_logit_difference"] < (1e-3 if precision == "float32" else 0.1)
    assert found["mean_kl_nats"] < 1e-3


def small(**given):
    torch.manual_seed(0)
    config = ModelConfig(d_model=32, num_layers=1, num_heads=2, **given)
    model = Denoiser(config, vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN, end_id=0).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=1.2 * weight.shape[1] ** -0.5)
    return model


def test_halving_leaves_the_model_as_it_is():
    model = small(time_conditioning=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    half = halved(model)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert half.blocks[0].modulation.weight.dtype == half.time.project.weight.dtype == torch.float32
    assert half.output.weight.dtype == torch.float16
