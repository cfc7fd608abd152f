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
from ddlm.config import UserError
from ddlm.data import ShardsConfig
from ddlm.data.shards import build as build_shards
from ddlm.diffusion import SamplingConfig
from ddlm.export import ExportConfig, stage
from ddlm.export.onnx import GraphError
from ddlm.generation import DiffusionPipeline
from ddlm.tokenizer import TokenizerConfig

SAMPLING = SamplingConfig(unmasking="random", num_sampling_steps=4, top_k=7)


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
    build_shards(workspace, seed=0, tokenizer=TokenizerConfig(), shards=ShardsConfig(seq_len=pipeline.seq_len))
    return folders


def run_stage(inputs, output, export):
    output.mkdir()
    workspace = Workspace(inputs, output, inputs["scratch"], Recorder())
    stage.build(workspace, seed=3, sampling=SAMPLING, export=export)
    return workspace


@pytest.fixture(scope="module")
def built(inputs, tmp_path_factory):
    return run_stage(inputs, tmp_path_factory.mktemp("export") / "out", ExportConfig(check_batches=2, opset=19))


def test_the_stage_writes_a_bundle_checked_on_real_rows_and_reports_how_close_it_came(built):
    parity = json.loads((built.output / "parity.json").read_text())
    manifest = json.loads((built.output / "bundle" / "manifest.json").read_text())
    assert manifest["parity"] == parity
    assert parity["text"] == "real"
    assert parity["positions"] == 2 * (8 + 16 + 24 + 32)
    assert built.run.metrics["export/max_logit_difference"] == parity["max_logit_difference"]
    assert built.run.metrics["export/top1_agreement"] == 1


def test_the_configured_settings_reach_the_bundle(built):
    manifest = json.loads((built.output / "bundle" / "manifest.json").read_text())
    assert SamplingConfig(**manifest["sampling"]) == SAMPLING
    assert manifest["opset"] == 19
    assert [entry.version for entry in onnx.load(built.output / "bundle" / "model.onnx").opset_import] == [19]


def test_the_same_model_gives_the_same_artifact(inputs, built, tmp_path):
    again = run_stage(inputs, tmp_path / "out", ExportConfig(check_batches=2, opset=19))
    assert seal(again.output, "export") == seal(built.output, "export")


def test_the_bundles_own_manifest_counts_in_the_artifacts_digest(built, tmp_path):
    digest = seal(built.output, "export")
    manifest = built.output / "bundle" / "manifest.json"
    before = manifest.read_bytes()
    manifest.write_bytes(before.replace(b'"top_k": 7', b'"top_k": 8'))
    changed = seal(built.output, "export")
    manifest.write_bytes(before)
    assert changed != digest


def export(pipeline, folder, rows=None, **settings):
    config = ExportConfig(check_batches=1, **settings)
    return stage.export_bundle(pipeline, folder, sampling=SAMPLING, export=config, rows=rows, seed=0)


@pytest.fixture(scope="module")
def packed(pipeline, tmp_path_factory):
    """The bundle of a model whose rows were full of stories, made without text."""
    config = pipeline.config.model_copy(update={"layout": "packed"})
    folder = tmp_path_factory.mktemp("packed") / "deep" / "bundle"
    export(DiffusionPipeline(pipeline.model, pipeline.tokenizer, config), folder)
    return folder


def test_without_text_random_tokens_are_compared_and_the_manifest_says_so(packed):
    assert json.loads((packed / "manifest.json").read_text())["parity"]["text"] == "random tokens"
    assert [path.name for path in packed.parent.iterdir()] == ["bundle"]


def test_a_model_of_packed_rows_draws_no_ends_in_the_bundle_either(packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    assert SamplingConfig(**manifest["sampling"]) == SAMPLING.model_copy(update={"ends": "free"})


def test_a_cache_that_changes_texts_is_refused_and_leaves_nothing(pipeline, tmp_path):
    approximate = SamplingConfig(block_size=8, cache="approximate")
    with pytest.raises(UserError, match=r'"approximate".*wanted "exact" or "off"; change sampling\.cache') as refused:
        stage.export_bundle(
            pipeline, tmp_path / "bundle", sampling=approximate, export=ExportConfig(), rows=None, seed=0
        )
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_refused_by_name_and_left_alone(pipeline, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(UserError, match=r"photos: exists and is not a bundle; choose another folder with -o"):
        export(pipeline, tmp_path / "photos")
    with pytest.raises(UserError, match=r"cat\.jpg: exists and is not a bundle"):
        export(pipeline, tmp_path / "photos" / "cat.jpg")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_a_failed_export_leaves_the_older_bundle_and_no_debris(pipeline, bundle, rows, tmp_path):
    older = tmp_path / "bundle"
    older.mkdir()
    for path in bundle.iterdir():
        (older / path.name).write_bytes(path.read_bytes())
    with pytest.raises(GraphError, match="logits differ"):
        export(pipeline, older, rows, max_logit_difference=1e-12)
    assert {path.name: path.read_bytes() for path in older.iterdir()} == {
        path.name: path.read_bytes() for path in bundle.iterdir()
    }
    assert list(tmp_path.iterdir()) == [older]
    export(pipeline, older, rows)
    assert (older / "manifest.json").read_bytes() != (bundle / "manifest.json").read_bytes()
    assert list(tmp_path.iterdir()) == [older]


def test_a_bundle_is_readable_by_others(bundle):
    assert bundle.stat().st_mode & 0o055 == 0o055


def test_random_rows_are_of_the_vocabulary_and_follow_the_seed():
    rows = stage.random_rows((3, 8), 5, seed=1)
    assert rows.dtype == np.int32
    assert set(rows.flat) <= set(range(5))
    assert not np.array_equal(rows, stage.random_rows((3, 8), 5, seed=2))


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
    assert done.stdout == 'export: onnx, onnxscript not installed; run pip install "ddlm[export]"\n', done.stderr
