import json
import re
from pathlib import Path

import pytest

from ddlm import draws
from ddlm.artifacts import sha256_file
from ddlm.diffusion import SamplingConfig
from ddlm.export.bundle import PROGRAM, is_bundle
from ddlm.export.runtime import contents
from ddlm.tokenizer import CHAT_TAGS, Tokenizer

FILES = {
    "README.md", "contents.py", "draws.py", "generate.py", "manifest.json", "model.onnx", "requirements.txt",
    "sampler.py", "tokenizer.json", "tokens.py", "unmasking.py",
}  # fmt: skip


@pytest.fixture(scope="module")
def manifest(bundle):
    return json.loads((bundle / "manifest.json").read_text())


def test_it_holds_what_it_promises_and_nothing_else(bundle):
    assert {path.name for path in bundle.iterdir()} == FILES
    assert is_bundle(bundle)


def test_the_draws_are_the_librarys_byte_for_byte(bundle):
    assert (bundle / "draws.py").read_bytes() == Path(draws.__file__).read_bytes()


def test_the_whole_program_is_checked_before_it_runs():
    assert set(contents.DECIDE_THE_TEXT) == {*PROGRAM, contents.MODEL, contents.TOKENIZER}


def test_the_manifest_describes_the_model_and_every_file(bundle, manifest, pipeline):
    tokenizer = pipeline.tokenizer
    assert (manifest["seq_len"], manifest["vocab_size"]) == (pipeline.seq_len, tokenizer.vocab_size)
    assert (manifest["end_id"], manifest["mask_id"]) == (tokenizer.end_id, tokenizer.mask_id)
    assert (manifest["prefix"], manifest["stop_ids"], manifest["forbidden"]) == ([], [tokenizer.end_id], [])
    assert (manifest["format_version"], manifest["opset"]) == (2, 18)
    assert SamplingConfig(**manifest["sampling"]) == SamplingConfig()
    assert manifest["parity"]["max_logit_difference"] < 1e-3
    assert manifest["files"] == {
        name: {"bytes": (bundle / name).stat().st_size, "sha256": sha256_file(bundle / name)}
        for name in FILES - {"manifest.json"}
    }


def test_a_chats_manifest_has_what_stands_before_a_story_what_ends_it_and_what_it_can_not_have(chat_bundle):
    manifest = json.loads((chat_bundle / "manifest.json").read_text())
    tokenizer = Tokenizer.load(chat_bundle)
    system, user, assistant, end_of_turn = map(tokenizer.backend.token_to_id, CHAT_TAGS)
    assert manifest["prefix"] == tokenizer.story_prefix
    assert set(manifest["stop_ids"]) == {tokenizer.end_id, end_of_turn}
    assert set(manifest["forbidden"]) == {system, user, assistant}


def test_the_readme_lists_the_files_and_names_options_that_exist(bundle, device_help):
    readme = (bundle / "README.md").read_text()
    assert set(re.findall(r"[\w-]+\.(?:py|json|txt|onnx)\b", readme)) == FILES - {"README.md"}
    for option in set(re.findall(r"(?<!\S)`?(--[a-z-]+)", readme)):
        assert option in device_help


@pytest.fixture
def device_help():
    from ddlm.export.runtime.generate import command_line

    return command_line().format_help()


def test_requirements_are_three_packages(bundle):
    lines = (bundle / "requirements.txt").read_text().splitlines()
    names = [re.split("[=>]", line)[0] for line in lines if not line.startswith("#")]
    assert names == ["onnxruntime", "numpy", "tokenizers"]


def test_another_folder_is_no_bundle(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format_version": 1, "checksum": "0"}')
    assert not is_bundle(tmp_path)
