"""Bundles on a Jetson: what is thought of its facts, and the tasks against a real sshd, whose machine is no Jetson."""

import importlib
import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
import torch
from pyarrow import parquet

import ddlm.data
from ddlm.diffusion import SamplingConfig
from ddlm.export import ExportConfig
from ddlm.export.stage import export_bundle
from ddlm.generation import DiffusionPipeline
from ddlm.model import ModelConfig
from ddlm.model.folder import ModelFolder
from ddlm.model.transformer import Denoiser
from ddlm.tokenizer import MASK, Tokenizer, TokenizerConfig, train_bpe

INFRA = Path(__file__).parents[2] / "infra"
STORIES = Path(ddlm.data.__file__).with_name("sample.parquet")
WELL = {
    "l4t": "36.4.3", "jetpack": "6.2", "trtexec": "/usr/src/tensorrt/bin/trtexec", "has_bundle": "yes",
    "has_packages": "yes", "python_tensorrt": "10.3.0", "gpu_hz": "1020000000", "gpu_max_hz": "1020000000",
    "memory_available_kib": "5123456", "disk_free_kib": "99999999",
}  # fmt: skip


@pytest.fixture
def jetson(monkeypatch):
    monkeypatch.syspath_prepend(INFRA)
    yield importlib.import_module("jetson")
    for path in INFRA.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_of_a_jetson_that_is_well_nothing_is_said(jetson):
    assert list(jetson.complaints(WELL)) == []


@pytest.mark.parametrize(("fact", "value", "line"), [
    ("l4t", None, "jetson: /etc/nv_tegra_release is missing"),
    ("trtexec", None, "tensorrt: no trtexec; sudo apt install nvidia-jetpack"),
    ("python_tensorrt", None, "tensorrt: Python finds none; sudo apt install python3-libnvinfer"),
    ("has_bundle", None, "bundle: none; deploy-bundle --bundle FOLDER"),
    ("has_packages", None, "packages: the bundle's are not all there; deploy-bundle again"),
    ("gpu_hz", "306000000", "clocks: the GPU runs at 306000000 of 1020000000 Hz; sudo jetson_clocks"),
    ("memory_available_kib", "500000", "memory: 488 MiB free; building an engine takes 2048"),
    ("disk_free_kib", "100000", "disk: 97 MiB free; building an engine takes 4096"),
])  # fmt: skip
def test_what_is_wrong_is_a_line_that_says_what_to_do(jetson, fact, value, line):
    facts = {key: kept for key, kept in {**WELL, fact: value}.items() if kept is not None}
    (said,) = jetson.complaints(facts)
    assert said.startswith(line)


def test_figures_are_what_is_a_number(jetson):
    made = {"texts": 3, "graph": "a", "joules": None, "is_captured": True, "text_ms": {"p50": 1.5}, "tokens_per_s": 2.0}
    assert jetson.figures(made) == {"device/texts": 3.0, "device/text_ms_p50": 1.5, "device/tokens_per_s": 2.0}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Of a model that knows nothing, without step graphs."""
    stories = parquet.read_table(STORIES, columns=["text"])["text"].to_pylist()[:20]
    backend = train_bpe([stories], TokenizerConfig(vocab_size=300))
    backend.add_special_tokens([MASK])
    tokenizer, sizes = Tokenizer(backend), ModelConfig(d_model=32, num_layers=1, num_heads=2)
    torch.manual_seed(0)
    model = Denoiser(sizes, vocab_size=tokenizer.vocab_size, seq_len=24, end_id=tokenizer.end_id).eval()
    pipeline = DiffusionPipeline(
        model, tokenizer, ModelFolder.of(model, end_id=tokenizer.end_id, objective={"kind": "masked"})
    )
    folder = tmp_path_factory.mktemp("a folder") / "bundle"
    export = ExportConfig(precisions=(), quantised=(), check_batches=1)
    export_bundle(pipeline, folder, sampling=SamplingConfig(), export=export, text=None, seed=0)
    return folder


@pytest.fixture(scope="module")
def python():
    return sys._base_executable


@pytest.mark.services
@pytest.mark.slow
def test_a_bundle_is_put_there_writes_and_is_not_sent_again(new_box, bundle, python, tmp_path):
    box = new_box()
    mine = Path(shutil.copytree(bundle, tmp_path / "mine"))
    (mine / "a secret of mine").write_text("stays here")
    said = box.ok("deploy-bundle", "--bundle", str(mine), "--python", python)
    key = json.loads((bundle / "manifest.json").read_text())["checksum"][:16]
    assert f"bundle {key} is in ~/ddlm/bundle and writes (float32, random)" in said
    there = box.home / "ddlm" / "bundle"
    assert there.resolve().name == key
    found = {path.name for path in there.iterdir()} - {"__pycache__"}
    assert found == {path.name for path in bundle.iterdir()} | {".venv"}
    before = (there / "model.onnx").stat().st_mtime_ns
    box.ok("deploy-bundle", "--bundle", str(bundle), "--python", python)
    assert (there / "model.onnx").stat().st_mtime_ns == before


@pytest.mark.services
@pytest.mark.slow
def test_what_is_no_bundle_or_a_damaged_one_is_not_sent(new_box, bundle, tmp_path):
    box = new_box()
    assert "no bundle; make one with ddlm export" in box.refused("deploy-bundle", "--bundle", str(tmp_path))
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    data = bytearray((damaged / "model.onnx").read_bytes())
    data[-1] ^= 1
    (damaged / "model.onnx").write_bytes(data)
    assert "model.onnx has another sha256" in box.refused("deploy-bundle", "--bundle", str(damaged))
    assert list(box.home.iterdir()) == []


@pytest.mark.services
@pytest.mark.slow
def test_the_doctor_says_what_the_machine_is_and_what_is_missing(new_box):
    done = new_box().fab("jetson-doctor")
    assert done.returncode == 1
    lines = {line.partition(":")[0]: line for line in done.stdout.splitlines()}
    assert lines["machine"]
    assert int(lines["memory_total_kib"].split()[1]) > 0
    assert lines["jetson"].endswith("this is no Jetson, and only --backend ort runs here")
    assert lines["bundle"] == "bundle: none; deploy-bundle --bundle FOLDER"
    assert done.stderr == ""


@pytest.mark.services
@pytest.mark.slow
def test_a_measurement_comes_back_and_into_mlflow(new_box, bundle, python):
    box = new_box()
    assert "no bundle; deploy-bundle --bundle FOLDER first" in box.refused("jetson-bench")
    box.ok("deploy-bundle", "--bundle", str(bundle), "--python", python)
    said = box.ok("jetson-bench", "--option=--samples=2", "--option=--steps=3", "--option=--length=5")
    (record,) = (box.folder / "here" / "fetched" / "127.0.0.1").glob("bench-*.json")
    assert str(record) in said
    made = json.loads(record.read_text())
    assert (made["texts"], made["calls"]) == (2, 6)
    with sqlite3.connect(box.folder / "here" / "mlflow.db") as database:
        metrics = dict(database.execute("select key, value from metrics"))
        parameters = dict(database.execute("select key, value from params"))
    assert metrics["device/tokens_per_s"] == pytest.approx(made["tokens_per_s"])
    assert parameters["machine.machine"] == made["machine"]["machine"]
    assert "wanted at least 1" in box.refused("jetson-bench", "--option=--steps=0")
