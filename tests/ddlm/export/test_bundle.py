import json
import re
from pathlib import Path

import pytest

from ddlm import draws
from ddlm.artifacts import sha256_file
from ddlm.diffusion import SamplingConfig
from ddlm.export import device
from ddlm.export.bundle import DEVICE, PROGRAM, is_bundle
from ddlm.export.runtime import generate
from ddlm.tokenizer import CHAT_TAGS, Tokenizer

GRAPHS = {"model.onnx", "step_float16.onnx", "step_float32.onnx"}
FILES = {*PROGRAM, *DEVICE, *GRAPHS, "manifest.json", "tokenizer.json"}


@pytest.fixture(scope="module")
def manifest(bundle):
    return json.loads((bundle / "manifest.json").read_text())


def test_it_holds_what_it_promises_and_nothing_else(bundle):
    assert {path.name for path in bundle.iterdir()} == FILES
    assert is_bundle(bundle)


def test_the_draws_are_the_librarys_byte_for_byte(bundle):
    assert (bundle / "draws.py").read_bytes() == Path(draws.__file__).read_bytes()


def test_all_that_runs_on_the_device_is_shipped(bundle):
    runtime = Path(str(generate.__file__)).parent
    assert set(PROGRAM) == {path.name for path in runtime.glob("*.py")} - {"__init__.py"} | {"draws.py"}
    folder = Path(str(device.__file__)).parent
    assert set(DEVICE) == {path.name for path in folder.iterdir() if path.is_file()} - {"__init__.py"}


def test_the_manifest_describes_the_model_and_every_file(bundle, manifest, pipeline):
    tokenizer = pipeline.tokenizer
    assert (manifest["seq_len"], manifest["vocab_size"]) == (pipeline.seq_len, tokenizer.vocab_size)
    assert (manifest["end_id"], manifest["mask_id"]) == (tokenizer.end_id, tokenizer.mask_id)
    assert (manifest["prefix"], manifest["stop_ids"], manifest["forbidden"]) == ([], [tokenizer.end_id], [])
    assert (manifest["format_version"], manifest["opset"]) == (3, 18)
    assert SamplingConfig(**manifest["sampling"]) == SamplingConfig()
    assert manifest["parity"]["float32"]["max_logit_difference"] < 1e-3
    assert manifest["parity"]["float16"]["mean_kl_nats"] < 1e-3
    assert set(manifest["made_with"]) == {"ddlm", "torch", "onnx", "onnxscript", "onnxruntime"}
    assert manifest["files"] == {
        name: {"bytes": (bundle / name).stat().st_size, "sha256": sha256_file(bundle / name)}
        for name in FILES - {"manifest.json"}
    }


def test_the_manifest_says_what_each_graph_is_and_can(manifest, pipeline):
    length = pipeline.seq_len
    steps = {"kind": "step", "length": length, "candidates": 256, "most_opened": length}
    assert manifest["graphs"] == {
        "model.onnx": {"kind": "logits", "precision": "float32", "length": length},
        "step_float32.onnx": {"precision": "float32", **steps},
        "step_float16.onnx": {"precision": "float16", **steps},
    }


def test_the_manifest_keeps_every_gate_also_those_that_were_skipped(manifest):
    gates = manifest["gates"]
    assert {gate["result"] for gate in gates} <= {"passed", "SKIPPED"}
    assert {gate["graph"] for gate in gates} > GRAPHS
    steps = [gate for gate in gates if gate["graph"] == "step_float16.onnx"]
    assert {gate["name"] for gate in steps} == {"onnx checker", "opset", "operators", "one file", "TensorRT-RTX"}


def test_a_chats_manifest_has_what_stands_before_a_story_what_ends_it_and_what_it_can_not_have(chat_bundle):
    manifest = json.loads((chat_bundle / "manifest.json").read_text())
    tokenizer = Tokenizer.load(chat_bundle)
    system, user, assistant, end_of_turn = map(tokenizer.backend.token_to_id, CHAT_TAGS)
    assert manifest["prefix"] == tokenizer.story_prefix
    assert set(manifest["stop_ids"]) == {tokenizer.end_id, end_of_turn}
    assert set(manifest["forbidden"]) == {system, user, assistant}


def test_the_readme_lists_the_files_and_names_options_that_exist(bundle, device_help):
    readme = (bundle / "README.md").read_text()
    listed = set(re.findall(r"[\w-]+\.(?:py|json|txt|onnx|sh|service)\b", readme.partition("## What is in it")[2]))
    assert listed == FILES - {"README.md"} - {name for name in GRAPHS if name.startswith("step_")}
    is_call = re.compile(r" +(\.venv/bin/python generate\.py|sh bench)")
    calls = "\n".join(line for line in readme.splitlines() if is_call.match(line))
    options = set(re.findall(r"(?<!\S)`?(--[a-z-]+)", calls))
    assert {"--infill", "--backend"} <= options
    for option in options:
        assert option in device_help


@pytest.fixture
def device_help():
    from ddlm.export.runtime.options import command_line

    return command_line().format_help()


@pytest.mark.parametrize("release", ["jp62", "jp72"])
def test_requirements_are_three_packages(bundle, release):
    lines = (bundle / f"requirements-{release}.txt").read_text().splitlines()
    names = [re.split("[=><]", line)[0] for line in lines if not line.startswith("#")]
    assert names == ["onnxruntime", "numpy", "tokenizers"]


def test_another_folder_is_no_bundle(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format_version": 1, "checksum": "0"}')
    assert not is_bundle(tmp_path)
