import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest
from pyarrow import parquet

from ddlm.artifacts import Workspace, seal
from ddlm.config import UserError, installing
from ddlm.data import ShardsConfig
from ddlm.data.packing import Rows
from ddlm.data.shards import build as build_shards
from ddlm.diffusion import SamplingConfig
from ddlm.export import ExportConfig, quality, stage
from ddlm.export.gates import GraphError
from ddlm.export.runtime.tokens import Draw
from ddlm.export.text import Text, random_rows
from ddlm.generation import DiffusionPipeline

SAMPLING = SamplingConfig(unmasking="random", num_sampling_steps=4, top_k=7)
WHOLE = ExportConfig(
    check_batches=2, opset=19, precisions=("float16",), candidates=40, most_opened=16, quality_rows=4, quality_masks=2,
    quality_texts=1, max_bits_per_byte_loss=5.0,
)  # fmt: skip
"""Of everything something, and each graph once: exporting one takes seconds."""


class Recorder:
    id = None

    def __init__(self):
        self.metrics = {}

    def log(self, metrics, step):
        self.metrics.update(metrics)


@pytest.fixture(scope="module")
def inputs(pipeline, tokenizer, stories, tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    folders = {name: root / name for name in ("corpus", "tokenizer", "shards", "train", "scratch")}
    for folder in folders.values():
        folder.mkdir()
    for split, texts in {"train": stories[:10], "validation": stories[10:]}.items():
        parquet.write_table(pa.table({"text": texts}), folders["corpus"] / f"{split}.parquet")
    tokenizer.save(folders["tokenizer"])
    pipeline.save_pretrained(folders["train"])
    workspace = Workspace(folders, folders["shards"], folders["scratch"], Recorder())
    build_shards(workspace, shards=ShardsConfig(seq_len=pipeline.seq_len))
    return folders


def run_stage(inputs, output, export):
    output.mkdir()
    workspace = Workspace(inputs, output, inputs["scratch"], Recorder())
    stage.build(workspace, seed=3, sampling=SAMPLING, export=export)
    return workspace


@pytest.fixture(scope="module")
def built(inputs, tmp_path_factory):
    return run_stage(inputs, tmp_path_factory.mktemp("export") / "out", WHOLE)


def test_the_stage_writes_a_bundle_checked_on_real_rows_and_reports_how_close_it_came(built):
    parity = json.loads((built.output / "parity.json").read_text())
    manifest = json.loads((built.output / "bundle" / "manifest.json").read_text())
    assert manifest["parity"] == {"text": "real", **parity}
    assert set(parity) == {"float32", "activations", "float16"}
    assert parity["float32"]["positions"] == 2 * (8 + 16 + 24 + 32)
    assert built.run.metrics["export/parity/float32/max_logit_difference"] == parity["float32"]["max_logit_difference"]
    assert built.run.metrics["export/parity/float32/top1_agreement"] == 1


def test_the_configured_settings_reach_the_bundle(built):
    manifest = json.loads((built.output / "bundle" / "manifest.json").read_text())
    assert SamplingConfig(**manifest["sampling"]) == SAMPLING
    assert manifest["opset"] == 19
    assert [entry.version for entry in onnx.load(built.output / "bundle" / "model.onnx").opset_import] == [19]


def test_quantised_networks_are_measured_and_those_that_lose_little_are_shipped(built):
    manifest = json.loads((built.output / "bundle" / "manifest.json").read_text())
    assert set(manifest["quality"]) == {"float32", "float16", "int8_dynamic", "int8_static"}
    assert manifest["quality"] == json.loads((built.output / "quality.json").read_text())
    assert manifest["left_out"] == {}
    step = {"kind": "step", "length": 32, "candidates": 40, "most_opened": 16}
    assert manifest["graphs"] == {
        "model.onnx": {"kind": "logits", "precision": "float32", "length": 32},
        "step_float16.onnx": {**step, "precision": "float16"},
        "model_int8.onnx": {"kind": "logits", "precision": "int8", "length": 32},
        "step_int8.onnx": {**step, "precision": "int8"},
    }
    change = manifest["quality"]["int8_static"]["bits_per_byte_change"]
    assert built.run.metrics["export/quality/int8_static/bits_per_byte_change"] == change


def test_one_that_loses_too_much_is_left_out_and_the_manifest_says_why(pipeline, text, tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "loses_too_much", lambda figures, most: True)  # here int8 may be the better by chance
    made = export(pipeline, tmp_path / "bundle", text, quantised=("int8_dynamic",), quality_texts=0, quality_masks=2)
    assert set(made.graphs) == {"model.onnx"}
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert "wanted at most export.max_bits_per_byte_loss = 0.01" in manifest["left_out"]["int8_dynamic"]
    assert "int8_dynamic" in manifest["quality"]


def test_a_canvas_longer_than_the_models_is_refused(pipeline, tmp_path):
    with pytest.raises(UserError, match=r"a length of 33, but the model writes 32 tokens; change export\.lengths"):
        export(pipeline, tmp_path / "bundle", lengths=(16, 33))


def test_the_same_model_gives_the_same_artifact(inputs, built, tmp_path):
    again = run_stage(inputs, tmp_path / "out", WHOLE)
    assert seal(again.output, "export") == seal(built.output, "export")


def test_the_bundles_own_manifest_counts_in_the_artifacts_digest(built, tmp_path):
    digest = seal(built.output, "export")
    manifest = built.output / "bundle" / "manifest.json"
    before = manifest.read_bytes()
    manifest.write_bytes(before.replace(b'"top_k": 7', b'"top_k": 8'))
    changed = seal(built.output, "export")
    manifest.write_bytes(before)
    assert changed != digest


def export(pipeline, folder, text=None, **settings):
    config = ExportConfig(check_batches=1, **{"precisions": (), "quantised": (), **settings})
    return stage.export_bundle(pipeline, folder, sampling=SAMPLING, export=config, text=text, seed=0)


@pytest.fixture(scope="module")
def packed(pipeline, tmp_path_factory):
    """The bundle of a model whose rows were full of stories, made without text."""
    config = pipeline.config.model_copy(update={"layout": "packed"})
    folder = tmp_path_factory.mktemp("packed") / "deep" / "bundle"
    export(DiffusionPipeline(pipeline.model, pipeline.tokenizer, config), folder, quantised=ExportConfig().quantised)
    return folder


def test_without_text_random_tokens_are_compared_and_the_manifest_says_so(packed):
    assert json.loads((packed / "manifest.json").read_text())["parity"]["text"] == "random tokens"
    assert [path.name for path in packed.parent.iterdir()] == ["bundle"]


def test_without_text_nothing_is_quantised_and_the_manifest_says_so(packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    assert manifest["left_out"] == dict.fromkeys(ExportConfig().quantised, "there is no text to measure it on")
    assert manifest["quality"] == {}
    assert set(manifest["graphs"]) == {"model.onnx"}


def test_a_model_of_packed_rows_draws_no_ends_in_the_bundle_either(packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    assert SamplingConfig(**manifest["sampling"]) == SAMPLING.model_copy(update={"ends": "free"})


def test_a_cache_that_changes_texts_is_refused_and_leaves_nothing(pipeline, tmp_path):
    approximate = SamplingConfig(block_size=8, cache="approximate")
    with pytest.raises(UserError, match=r'"approximate".*wanted "exact" or "off"; change sampling\.cache') as refused:
        stage.export_bundle(
            pipeline, tmp_path / "bundle", sampling=approximate, export=ExportConfig(), text=None, seed=0
        )
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_step_that_writes_other_texts_than_torch_stops_the_export(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(Draw, "uniform", lambda self, step, position: np.full(len(position), 0.5))
    with pytest.raises(GraphError, match=r"step_float32\.onnx: [23] of 3 texts differ from those that torch writes"):
        export(pipeline, tmp_path / "bundle", precisions=("float32",))
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_refused_by_name_and_left_alone(pipeline, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(UserError, match=r"photos: exists and is not a bundle; choose another folder with -o"):
        export(pipeline, tmp_path / "photos")
    with pytest.raises(UserError, match=r"cat\.jpg: exists and is not a bundle"):
        export(pipeline, tmp_path / "photos" / "cat.jpg")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_a_failed_export_leaves_the_older_bundle_and_a_good_one_with_other_canvases_replaces_it(
    pipeline, bundle, text, tmp_path
):
    older = tmp_path / "bundle"
    older.mkdir()
    for path in bundle.iterdir():
        (older / path.name).write_bytes(path.read_bytes())
    with pytest.raises(GraphError, match="logits differ"):
        export(pipeline, older, text, max_logit_difference=1e-12)
    assert {path.name: path.read_bytes() for path in older.iterdir()} == {
        path.name: path.read_bytes() for path in bundle.iterdir()
    }
    assert list(tmp_path.iterdir()) == [older]
    made = export(pipeline, older, text, precisions=("float32",), lengths=(24,))
    step = {"kind": "step", "precision": "float32", "candidates": 256}
    assert made.graphs == {
        "model.onnx": {"kind": "logits", "precision": "float32", "length": 32},
        "step_float32.onnx": {**step, "length": 32, "most_opened": 32},
        "step_float32_24.onnx": {**step, "length": 24, "most_opened": 24},
    }
    graph = onnx.load(older / "step_float32_24.onnx").graph
    assert [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [1, 24]
    assert (older / "manifest.json").read_bytes() != (bundle / "manifest.json").read_bytes()
    assert list(tmp_path.iterdir()) == [older]


def test_a_bundle_is_readable_by_others(bundle):
    assert bundle.stat().st_mode & 0o055 == 0o055


def test_random_rows_are_of_the_vocabulary_and_follow_the_seed():
    rows = random_rows((3, 8), 5, seed=1)
    assert rows.dtype == np.int32
    assert set(rows.flat) <= set(range(5))
    assert not np.array_equal(rows, random_rows((3, 8), 5, seed=2))


def test_without_the_extra_it_says_what_to_install(tmp_path):
    """In a process of its own, where onnx and onnxscript can't be found."""
    code = """
import sys
sys.modules.update(onnx=None, onnxscript=None)
from ddlm.export import stage
try:
    stage.require_extra()
except ValueError as error:
    print(error)
"""
    root = Path(stage.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"export: onnx, onnxscript not installed; run {installing('export')}\n", done.stderr


def test_a_text_is_divided_into_what_is_measured_and_what_sets_the_ranges():
    rows = Rows(np.arange(60, dtype=np.int32).reshape(30, 2), np.full(30, 9), np.full(30, 2))
    divided = Text.divided(rows, np.arange(30), limit=12)
    assert divided.rows.tokens[:, 0].tolist() == list(range(0, 24, 2))
    assert divided.calibration[:, 0].tolist() == list(range(24, 44, 2))
    assert divided.story.tolist() == list(range(12))
    small = Text.divided(rows[:4], np.arange(4), limit=12)
    assert (len(small.rows), len(small.calibration), small.is_enough) == (3, 1, True)
    assert not Text.divided(rows[:2], np.arange(2), limit=12).is_enough
