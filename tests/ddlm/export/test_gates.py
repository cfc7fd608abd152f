"""Each gate, passed by a real graph and closed to one that was damaged on purpose."""

import json
import shlex
import sys
from importlib.machinery import ModuleSpec

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from ddlm.config import installing
from ddlm.export import MAX_OPSET, ExportConfig, gates
from ddlm.export.gates import GraphError
from ddlm.export.onnx import export_logits

SEQ_LEN, MASK_ID = 6, 5


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
    return gates.masked_batches(rows, MASK_ID, seed=0)


# The file


@pytest.mark.parametrize("name", ["model.onnx", "step_float32.onnx", "step_float16.onnx"])
def test_every_graph_of_a_bundle_has_the_form_that_tensorrt_takes(bundle, name):
    passed = gates.form(bundle / name)
    assert [gate.name for gate in passed] == ["onnx checker", "opset", "operators", "one file"]
    assert {(gate.graph, gate.result) for gate in passed} == {(name, "passed")}


def test_the_checker_refuses_a_graph_that_is_none(graph, tmp_path):
    model = onnx.load(graph)
    model.graph.node[0].input[0] = "nowhere"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(GraphError, match=r"model\.onnx: the onnx checker refuses it: .*nowhere"):
        gates.form(tmp_path / "model.onnx")


def test_a_newer_opset_is_refused(graph, tmp_path):
    model = onnx.load(graph)
    model.opset_import[0].version = MAX_OPSET + 1
    onnx.save(model, tmp_path / "new.onnx")
    with pytest.raises(GraphError, match=r"new\.onnx has opset 21; TensorRT 10\.3 reads up to 20"):
        gates.form(tmp_path / "new.onnx")


def test_operators_that_tensorrt_may_not_know_are_refused_by_name(graph, tmp_path):
    model = onnx.load(graph)
    model.graph.node.append(helper.make_node("Bernoulli", ["logits"], ["drawn"]))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(GraphError, match=r"model\.onnx uses Bernoulli; TensorRT 10\.3"):
        gates.form(tmp_path / "model.onnx")


def test_weights_outside_the_file_are_refused(graph, tmp_path):
    path = tmp_path / "split.onnx"
    onnx.save(onnx.load(graph), path, save_as_external_data=True, location="split.data", size_threshold=0)
    with pytest.raises(GraphError, match=r"split\.onnx keeps .* outside the file; the bundle ships one file"):
        gates.form(path)


# What it computes


def test_onnxruntime_agrees_with_torch_at_every_noise_level(graph, table, batches):
    found = gates.compare(graph, table, batches, mask_id=MASK_ID)
    assert found["max_logit_difference"] <= 1e-6
    assert found["top1_agreement"] == 1
    assert abs(found["mean_kl_nats"]) < 1e-9
    assert found["positions"] == sum(int((batch == MASK_ID).sum()) for batch in batches)
    assert gates.parity("model.onnx", found, "float32", ExportConfig()).result == "passed"


def test_other_weights_than_the_graphs_are_found_and_measured(graph, table, batches):
    other = Table()
    other.load_state_dict(table.state_dict())
    with torch.no_grad():
        other.embedding.weight[MASK_ID, 0] += 0.5
    found = gates.compare(graph, other, batches, mask_id=MASK_ID)
    with pytest.raises(GraphError, match=r"differ from torch's by 0\.5, wanted at most export\.max_logit_difference"):
        gates.parity("model.onnx", found, "float32", ExportConfig())
    log_p, log_q = (model.embedding.weight[MASK_ID].double().log_softmax(-1) for model in (other, table))
    assert found["mean_kl_nats"] == pytest.approx((log_p.exp() * (log_p - log_q)).sum().item(), rel=1e-5)
    with pytest.raises(GraphError, match=r"0\.\d+ nats, wanted at least export\.min_top1_agreement = 0\.99"):
        gates.parity("model.onnx", found, "float16", ExportConfig())


def test_logits_that_are_not_numbers_do_not_pass(graph, batches):
    broken = Table()
    nn.init.constant_(broken.embedding.weight, float("nan"))
    found = gates.compare(graph, broken, batches, mask_id=MASK_ID)
    for precision in ("float32", "float16"):
        with pytest.raises(GraphError, match="nan"):
            gates.parity("model.onnx", found, precision, ExportConfig())


@pytest.mark.parametrize(("agreement", "nats"), [(0.98, 1e-5), (1.0, 2e-3)])
def test_float16_must_be_near_in_both_respects(agreement, nats):
    found = {"max_logit_difference": 0.1, "top1_agreement": agreement, "mean_kl_nats": nats, "positions": 9}
    with pytest.raises(
        GraphError, match=r"export\.min_top1_agreement = 0\.99 and at most export\.max_kl_nats = 0\.001"
    ):
        gates.parity("step_float16.onnx", found, "float16", ExportConfig())


def test_each_row_is_masked_at_every_level_by_the_seed_alone():
    rows = np.zeros((3, 8), dtype=np.int32)
    batches = gates.masked_batches(rows, MASK_ID, seed=4)
    assert [(batch == MASK_ID).sum(axis=1).tolist() for batch in batches] == [[2, 4, 6, 8]] * 3
    again, other = gates.masked_batches(rows, MASK_ID, seed=4), gates.masked_batches(rows, MASK_ID, seed=5)
    assert np.array_equal(batches, again)
    assert not np.array_equal(batches, other)


# What float16 can hold


@pytest.fixture
def real_batches(rows, pipeline):
    return gates.masked_batches(rows, pipeline.tokenizer.mask_id, seed=0)


def test_activations_are_looked_at_in_every_layer_and_sums_of_squares_too(pipeline, real_batches):
    gate, found = gates.activations(pipeline.model, real_batches)
    assert 1 < found["largest_activation"] < 100
    assert found["largest_sum_of_squares"] > found["largest_activation"]
    assert gate.result == "passed"
    assert not any(module._forward_hooks for module in pipeline.model.modules())


@pytest.mark.parametrize("size", [1e6, float("inf")])
def test_a_layer_that_float16_can_not_hold_is_named(pipeline, real_batches, size):
    weight = pipeline.model.blocks[1].feed_forward.down.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.mul_(size)
        with pytest.raises(
            GraphError, match=r"activations reach .* in blocks\.1.*, wanted less than 30000.*precisions"
        ):
            gates.activations(pipeline.model, real_batches)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


# What TensorRT says


def test_where_tensorrt_rtx_is_absent_the_report_says_skipped(monkeypatch, graph):
    monkeypatch.setattr(gates, "find_spec", lambda name: None)
    gate = gates.tensorrt(graph)
    assert (gate.result, gate.graph) == ("SKIPPED", "model.onnx")
    assert gate.detail == f"not installed: run {installing('tensorrt-check')}"


@pytest.fixture
def told(monkeypatch, tmp_path):
    """A stand-in for the package's process, for machines without it: it says what it is told to."""

    def say(program):
        monkeypatch.setattr(gates, "find_spec", lambda name: ModuleSpec(name, None))
        script = tmp_path / "python"
        script.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, '-c', program])}\n")
        script.chmod(0o755)
        monkeypatch.setattr(gates.sys, "executable", str(script))

    return say


def test_what_tensorrt_rtx_refuses_ends_the_export_in_its_words(told, graph):
    told(f"print({json.dumps(json.dumps({'version': '1.7', 'error': 'no Loop'}))})")
    with pytest.raises(GraphError, match=r"model\.onnx: TensorRT-RTX 1\.7 refuses it: no Loop"):
        gates.tensorrt(graph)


def test_a_check_that_breaks_down_is_no_pass(told, graph):
    told("raise SystemExit('out of memory')")
    with pytest.raises(GraphError, match=r"model\.onnx: TensorRT-RTX broke down: out of memory"):
        gates.tensorrt(graph)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.onnx", "step_float32.onnx", "step_float16.onnx"])
def test_tensorrt_rtx_builds_every_graph_of_a_bundle(bundle, name):
    pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-check is not installed")
    gate = gates.tensorrt(bundle / name)
    assert gate.result == "passed"
    assert "layers" in gate.detail


@pytest.mark.slow
def test_tensorrt_rtx_refuses_what_it_can_not_read(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-check is not installed")
    node = helper.make_node("Bernoulli", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    made = helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 18)]
    )
    onnx.save(made, tmp_path / "odd.onnx")
    with pytest.raises(GraphError, match=r"odd\.onnx: TensorRT-RTX .* refuses it: "):
        gates.tensorrt(tmp_path / "odd.onnx")
