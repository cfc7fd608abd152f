"""What is turned into integers, what stays, and how near the result is."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ddlm.export import gates, integers, quantize
from ddlm.export.onnx import export_logits, halved
from ddlm.export.quantize import QuantizationError
from ddlm.model import ModelConfig
from ddlm.model.transformer import Denoiser

LAYERS = 2 * 7 + 1


@pytest.fixture(scope="module")
def float32(pipeline, tmp_path_factory):
    path = tmp_path_factory.mktemp("float32") / "network.onnx"
    export_logits(pipeline.model, pipeline.seq_len, path, 18)
    return path


@pytest.fixture(scope="module")
def float16(pipeline, tmp_path_factory):
    path = tmp_path_factory.mktemp("float16") / "network.onnx"
    export_logits(halved(pipeline.model), pipeline.seq_len, path, 18)
    return path


@pytest.fixture(scope="module")
def vocab_size(pipeline):
    return pipeline.tokenizer.vocab_size


@pytest.fixture(scope="module")
def batches(rows, vocab_size):
    return gates.masked_batches(rows, vocab_size, seed=0)


@pytest.fixture(scope="module")
def feeds(batches):
    return [{"ids": row[None]} for batch in batches for row in batch]


@pytest.fixture(scope="module")
def ranges(float32, feeds, vocab_size):
    return quantize.calibrate(float32, feeds, vocab_size=vocab_size)


def nearness(path, pipeline, batches):
    return gates.compare(path, pipeline.model, batches, mask_id=pipeline.tokenizer.mask_id)


def kinds(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_the_layers_are_found_in_order_and_attention_is_none(float32, vocab_size):
    found = quantize.linears_of(onnx.load(float32), vocab_size)
    assert [linear.is_head for linear in found] == [False] * (LAYERS - 1) + [True]
    assert [quantize.narrows(linear) for linear in found] == [*([False] * 6 + [True]) * 2, False]
    assert kinds(float32).count("MatMul") == LAYERS + 2 * 2


def test_a_product_by_a_constant_behind_the_head_is_sampling(float32, vocab_size):
    model = onnx.load(float32)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((vocab_size, 5), np.float32), "ones"))
    model.graph.node.append(helper.make_node("MatMul", ["logits", "ones"], ["sums"]))
    assert len(quantize.linears_of(model, vocab_size)) == LAYERS


def test_a_tied_head_that_is_cut_out_of_the_embedding_stays(tmp_path):
    config = ModelConfig(d_model=32, num_layers=1, num_heads=2, tied_head=True)
    export_logits(Denoiser(config, vocab_size=9000, seq_len=8).eval(), 8, tmp_path / "tied.onnx", 18)
    found = quantize.linears_of(onnx.load(tmp_path / "tied.onnx"), 9000)
    assert len(found) == 7
    assert not any(linear.is_head for linear in found)


def test_a_graph_without_layers_is_refused():
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", [], [])
    with pytest.raises(QuantizationError, match="nothing to quantise"):
        quantize.linears_of(helper.make_model(graph), 5)


def test_rounding_is_within_half_a_step_of_each_output():
    weight = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32) * np.array([1, 10, 0.1, 0, 1e-9])
    steps, scale = integers.per_output(weight.astype(np.float32))
    assert steps.dtype == np.int8
    assert (np.abs(weight - steps * scale) <= 0.5001 * scale).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_an_output_without_weights_has_a_scale_that_divides(dtype):
    steps, scale = integers.per_output(np.zeros((4, 2), dtype))
    assert scale.dtype == dtype
    assert (scale >= np.finfo(dtype).smallest_normal).all()
    assert not steps.any()


def test_blocks_have_scales_of_their_own():
    weight = np.ones((64, 2), np.float32)
    weight[:32] = 100
    steps, scale = integers.per_block(weight)
    assert (steps == 7).all()
    assert scale * 7 == pytest.approx(np.array([[100, 100], [1, 1]]))


def test_two_integers_of_four_bits_share_a_byte():
    pairs = np.array([[-7, 7], [3, -1]], np.int8)
    tensor = helper.make_tensor("w", TensorProto.INT4, (2, 2), integers.two_in_a_byte(pairs), raw=True)
    assert numpy_helper.to_array(tensor).astype(np.int8).tolist() == pairs.tolist()


def test_ranges_are_exact_percentiles_of_what_each_layer_reads(float32, feeds, vocab_size):
    model = onnx.load(float32)
    names = [linear.node.input[0] for linear in quantize.linears_of(model, vocab_size)]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for percentile in (90.0, 100.0):
        found = quantize.calibrate(float32, feeds, vocab_size=vocab_size, percentile=percentile)
        for name, value in list(zip(names, found, strict=True))[::6]:
            seen = np.sort(np.abs(np.concatenate([session.run([name], feed)[0].ravel() for feed in feeds])))
            assert value == seen[-1 - int(len(seen) * (1 - percentile / 100))]


def test_the_dynamic_network_is_near_and_small(float32, pipeline, batches, vocab_size, tmp_path):
    quantize.dynamic(float32, tmp_path / "int8.onnx", vocab_size=vocab_size)
    found = nearness(tmp_path / "int8.onnx", pipeline, batches)
    assert found["top1_agreement"] > 0.85
    assert found["mean_kl_nats"] < 3e-3
    assert kinds(tmp_path / "int8.onnx").count("MatMulInteger") == LAYERS + 2
    assert (tmp_path / "int8.onnx").stat().st_size < 0.6 * float32.stat().st_size


def test_the_static_network_keeps_head_and_down_and_fits_an_older_tensorrt(
    float32, float16, ranges, pipeline, batches, vocab_size, tmp_path
):
    for source in (float32, float16):
        path = tmp_path / "static.onnx"
        quantize.static(source, path, ranges, vocab_size=vocab_size)
        found = nearness(path, pipeline, batches)
        assert found["top1_agreement"] > 0.9
        assert found["mean_kl_nats"] < 1e-2
        assert [gate.result for gate in gates.form(path)] == [gates.PASSED] * 4
        assert [entry.version for entry in onnx.load(path).opset_import] == [quantize.STATIC_OPSET]
        assert kinds(path).count("QuantizeLinear") == 2 * 3  # one for query, key and value; for output; for gate and up
        assert kinds(path).count("DequantizeLinear") == 2 * (3 + 6)


def test_float16_has_float16_scales(float16, ranges, vocab_size, tmp_path):
    quantize.static(float16, tmp_path / "static.onnx", ranges, vocab_size=vocab_size)
    tensors = onnx.load(tmp_path / "static.onnx").graph.initializer
    scales = {tensor.data_type for tensor in tensors if tensor.name.endswith("_scale")}
    assert scales == {TensorProto.FLOAT16}


def test_int4_runs_and_is_the_smallest(float16, ranges, pipeline, batches, vocab_size, tmp_path):
    quantize.int4(float16, tmp_path / "int4.onnx", vocab_size=vocab_size)
    quantize.static(float16, tmp_path / "int8.onnx", ranges, vocab_size=vocab_size, keep=quantize.head)
    assert nearness(tmp_path / "int4.onnx", pipeline, batches)["mean_kl_nats"] < 0.5
    assert (tmp_path / "int4.onnx").stat().st_size < (tmp_path / "int8.onnx").stat().st_size


def test_the_same_network_gives_the_same_bytes(float32, ranges, vocab_size, tmp_path):
    for number in range(2):
        quantize.dynamic(float32, tmp_path / f"dynamic{number}", vocab_size=vocab_size)
        quantize.static(float32, tmp_path / f"static{number}", ranges, vocab_size=vocab_size)
        quantize.int4(float32, tmp_path / f"int4{number}", vocab_size=vocab_size)
    for name in ("dynamic", "static", "int4"):
        assert (tmp_path / f"{name}0").read_bytes() == (tmp_path / f"{name}1").read_bytes()


def test_float16_has_no_dynamic_network(float16, vocab_size, tmp_path):
    with pytest.raises(QuantizationError, match=r"network\.onnx is in float16: the dynamic scheme is for float32"):
        quantize.dynamic(float16, tmp_path / "int8.onnx", vocab_size=vocab_size)


def test_ranges_of_another_network_are_refused(float32, ranges, vocab_size, tmp_path):
    with pytest.raises(QuantizationError, match=f"has {LAYERS} linear layers, got ranges of {LAYERS - 1}"):
        quantize.static(float32, tmp_path / "static.onnx", ranges[1:], vocab_size=vocab_size)


@pytest.fixture(scope="module")
def narrow_layer(tmp_path_factory):
    """One layer from 64 to 8 and a head."""
    rng = np.random.default_rng(0)
    weights = {"down": rng.normal(size=(64, 8)), "head": np.eye(8, 9)}
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    nodes = [helper.make_node("MatMul", ["x", "down"], ["y"]), helper.make_node("MatMul", ["y", "head"], ["logits"])]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [16, 64])
    made = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [16, 9])
    model = helper.make_model(
        helper.make_graph(nodes, "narrow", [given], [made], tensors), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 10
    path = tmp_path_factory.mktemp("narrow") / "narrow.onnx"
    onnx.save(model, path)
    return path


def test_outliers_before_a_narrowing_layer_cost_little(narrow_layer, tmp_path):
    """One value 300 times as large as the others takes the whole range."""
    x = np.random.default_rng(1).normal(size=(16, 64)).astype(np.float32)
    x[3, 5] = 300
    errors = []
    for twice in (quantize.nothing, quantize.narrows):
        quantize.dynamic(narrow_layer, tmp_path / "int8.onnx", vocab_size=9, keep=quantize.head, twice=twice)
        exact, near = (run(path, x) for path in (narrow_layer, tmp_path / "int8.onnx"))
        errors.append(np.abs(exact - near)[np.arange(16) != 3].mean())
    assert errors[1] < errors[0] / 30


def run(path, x):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_the_graph_behind_a_quantised_network_still_becomes_a_step(float16, ranges, pipeline, tmp_path):
    from ddlm.export import ExportConfig
    from ddlm.export.choice import Vocabulary
    from ddlm.export.graphs import limits_of
    from ddlm.export.onnx import choice_graph, export_step

    tokenizer, length = pipeline.tokenizer, pipeline.seq_len
    quantize.static(float16, tmp_path / "static.onnx", ranges, vocab_size=tokenizer.vocab_size)
    limits = limits_of(tokenizer, length, ExportConfig())
    export_step(tmp_path / "static.onnx", choice_graph(Vocabulary.of(tokenizer), limits, 18), tmp_path / "step.onnx")
    assert [gate.result for gate in gates.form(tmp_path / "step.onnx")] == [gates.PASSED] * 4
