import hashlib
import re

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ddlm.export import MAX_OPSET
from ddlm.export.onnx import GraphError, check, export_logits, masked_batches, parity

SEQ_LEN = 6
MASK_ID = 5


class Table(nn.Module):
    """The smallest denoiser: logits by looking the token up."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(MASK_ID + 1, MASK_ID)

    def forward(self, ids):
        return self.embedding(ids)


@pytest.fixture(scope="module")
def table():
    torch.manual_seed(1)
    return Table().eval()


@pytest.fixture(scope="module")
def graph(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_logits(table, SEQ_LEN, path, 18)
    return path


@pytest.fixture
def batches():
    rows = np.arange(12, dtype=np.int32).reshape(2, SEQ_LEN) % MASK_ID
    return masked_batches(rows, MASK_ID, seed=0)


def test_the_graph_takes_int32_ids_and_gives_float32_logits_in_fixed_shapes(graph):
    model = onnx.load(graph)
    (ids,), (logits,) = model.graph.input, model.graph.output
    assert shape_of(ids) == ("ids", onnx.TensorProto.INT32, [1, SEQ_LEN])
    assert shape_of(logits) == ("logits", onnx.TensorProto.FLOAT, [1, SEQ_LEN, MASK_ID])


def shape_of(value):
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, [dim.dim_value for dim in tensor.shape.dim]


def test_the_transformer_is_written_at_an_opset_that_tensorrt_reads_and_in_its_operators(bundle):
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]
    assert {entry.domain for entry in model.opset_import} == {""}
    assert not {"Attention", "RMSNormalization", "RotaryEmbedding"} & {node.op_type for node in model.graph.node}


def test_the_graph_is_one_file_without_external_data(bundle):
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert not list(bundle.glob("*.data"))


def test_the_file_names_no_path_of_the_machine_that_made_it(bundle, graph):
    for path in (bundle / "model.onnx", graph):
        data = path.read_bytes()
        assert not re.search(rb"\.py\b|stack_trace|site-packages|/home/|/tmp/|/root/", data)
        assert b"metadata" not in data


def test_the_same_weights_give_the_same_bytes(table, graph, tmp_path):
    again = tmp_path / "again.onnx"
    export_logits(table, SEQ_LEN, again, 18)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(graph.read_bytes()).digest()


def test_onnxruntime_agrees_with_torch_at_every_noise_level(graph, table, batches):
    result = parity(graph, table, batches, mask_id=MASK_ID, max_logit_difference=1e-6)
    assert result["max_logit_difference"] <= 1e-6
    assert result["top1_agreement"] == 1
    assert abs(result["mean_kl_nats"]) < 1e-9
    assert result["positions"] == sum(int((batch == MASK_ID).sum()) for batch in batches)


def test_other_weights_than_the_graphs_are_found_and_measured(graph, table, batches):
    other = Table()
    other.load_state_dict(table.state_dict())
    with torch.no_grad():
        other.embedding.weight[MASK_ID, 0] += 0.5
    with pytest.raises(GraphError, match=r"differ from torch's by 0\.5, wanted at most export\.max_logit_difference"):
        parity(graph, other, batches, mask_id=MASK_ID, max_logit_difference=1e-3)
    result = parity(graph, other, batches, mask_id=MASK_ID, max_logit_difference=1.0)
    log_p, log_q = (model.embedding.weight[MASK_ID].double().log_softmax(-1) for model in (other, table))
    assert result["mean_kl_nats"] == pytest.approx((log_p.exp() * (log_p - log_q)).sum().item(), rel=1e-5)
    assert result["mean_kl_nats"] > 0


def test_logits_that_are_not_numbers_do_not_pass(graph, batches):
    broken = Table()
    nn.init.constant_(broken.embedding.weight, float("nan"))
    with pytest.raises(GraphError, match="differ from torch's by nan"):
        parity(graph, broken, batches, mask_id=MASK_ID, max_logit_difference=1e-3)


def test_each_row_is_masked_at_every_level_by_the_seed_alone():
    rows = np.zeros((3, 8), dtype=np.int32)
    batches = masked_batches(rows, MASK_ID, seed=4)
    assert [(batch == MASK_ID).sum(axis=1).tolist() for batch in batches] == [[2, 4, 6, 8]] * 3
    again, other = masked_batches(rows, MASK_ID, seed=4), masked_batches(rows, MASK_ID, seed=5)
    assert np.array_equal(batches, again)
    assert not np.array_equal(batches, other)


def test_a_graph_that_tensorrt_can_not_read_is_refused(graph, tmp_path):
    model = onnx.load(graph)
    model.opset_import[0].version = MAX_OPSET + 1
    onnx.save(model, tmp_path / "new.onnx")
    with pytest.raises(GraphError, match=r"new\.onnx has opset 21; TensorRT 10\.3 reads up to 20"):
        check(tmp_path / "new.onnx")


def test_weights_outside_the_file_are_refused(graph, tmp_path):
    path = tmp_path / "split.onnx"
    onnx.save(onnx.load(graph), path, save_as_external_data=True, location="split.data", size_threshold=0)
    with pytest.raises(GraphError, match="outside the file"):
        check(path)
