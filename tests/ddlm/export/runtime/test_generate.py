"""The bundle as a stranger runs it: another folder, no torch, no ddlm."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.unmasking import POLICIES, View
from ddlm.export.bundle import PROGRAM
from ddlm.export.runtime import generate, sampler

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ddlm", "torch", "onnx", "onnxscript", "pydantic", "safetensors"}:
            raise ModuleNotFoundError(f"{name} is not on this device", name=name)

sys.meta_path.insert(0, Blocker())
"""
MANY = """
import json, sys
sys.path.insert(0, sys.argv[1])
import generate
for arguments in json.load(sys.stdin):
    assert generate.main([*arguments, "--json"]) == 0
"""
CASES = [
    ("", 0, {}),
    ("One day", 1, {"temperature": 0.0}),
    ("One day", 2, {"temperature": 1.0, "unmasking": "random"}),
    ("", 3, {"temperature": 0.0, "unmasking": "random", "num_sampling_steps": 5}),
    ("A <|endoftext|> in the  café 🙂\n", 4, {"num_sampling_steps": 1}),
    ("She", 5, {"temperature": 1.0, "num_sampling_steps": 7, "top_k": 5, "top_p": 1.0}),
    ("She", -6, {"temperature": 1.3, "top_p": 0.5, "unmasking": "random"}),
    ("The dog", 2**33 + 7, {"num_sampling_steps": 1000, "top_k": 1}),
]
FLAGS = {
    "num_sampling_steps": "--steps", "unmasking": "--unmasking", "temperature": "--temperature", "top_k": "--top-k",
    "top_p": "--top-p",
}  # fmt: skip


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """The environment of a machine that has neither torch nor ddlm."""
    folder = tmp_path_factory.mktemp("device")
    (folder / "sitecustomize.py").write_text(BLOCKER)
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def python(device, cwd, *arguments, stdin=""):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=device, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=120)


def flags(prompt, seed, settings, samples):
    given = [f"{FLAGS[name]}={value}" for name, value in settings.items()]
    return [prompt, f"--seed={seed}", f"--samples={samples}", "--threads=1", *given]


def test_the_device_really_lacks_torch_and_ddlm(device, tmp_path):
    for name in ("torch", "ddlm"):
        assert "is not on this device" in python(device, tmp_path, "-c", f"import {name}").stderr


def test_the_bundle_writes_the_librarys_text(bundle, pipeline, device, tmp_path):
    asked = json.dumps([flags(*case, samples=2) for case in CASES])
    done = python(device, tmp_path, "-c", MANY, bundle, stdin=asked)
    assert done.returncode == 0, done.stderr
    made = [json.loads(line) for line in done.stdout.splitlines()]
    same = [
        require_same(pipeline, bundle, prompt, seed, SamplingConfig(**settings), document)
        for (prompt, seed, settings), document in zip(CASES, made, strict=True)
    ]
    assert sum(same) >= len(CASES) - 1
    lengths = {len(sample["tokens"]) for document in made for sample in document["samples"]}
    assert len(lengths) > 3  # some texts end by themselves, some fill the canvas


def require_same(pipeline, bundle, prompt, seed, sampling, made):
    """Equal samples; where one differs, the two runtimes chose between candidates of equal score but for rounding.

    Returns whether all are equal.
    """
    library = pipeline.generate(prompt, num_samples=2, sampling=sampling, seed=seed)
    assert made["num_sampling_steps"] == library.num_sampling_steps
    same = True
    for number, (ours, theirs) in enumerate(zip(library.samples, made["samples"], strict=True)):
        if tuple(theirs["tokens"]) != ours.tokens:
            same = False
            network = network_of(bundle)
            assert gap_at_first_difference(pipeline, network, prompt, sampling, (seed, number)) < 1e-4
        else:
            assert theirs == {"text": ours.text, "tokens": list(ours.tokens), "prompt": prompt, "seed": seed}
    return same


def network_of(bundle):
    return generate.load_network(bundle / "model.onnx", threads=1)


def gap_at_first_difference(pipeline, network, prompt, sampling, draw):
    """How far apart, in the library's scores, the two runtimes' choices are where they first part; 0 if nowhere."""
    special = sampler.Special(pipeline.tokenizer.end_id, pipeline.tokenizer.mask_id)
    start = sampler.canvas(pipeline.tokenizer.encode(prompt), pipeline.seq_len, special)
    ours = [start, *runtime_states(torch_network(pipeline), start, special, sampling, draw)]
    theirs = [start, *runtime_states(network, start, special, sampling, draw)]
    for step, (before, one, other) in enumerate(zip(ours, ours[1:], theirs[1:], strict=False)):
        opened = [np.flatnonzero(after != before) for after in (one, other)]
        if not np.array_equal(*opened):
            return position_gap(pipeline, before, sampling, (*draw, step), *opened)
        if not np.array_equal(one, other):
            return token_gap(pipeline, before, sampling, (*draw, step), one, other)
    return 0.0


def runtime_states(network, start, special, sampling, draw):
    return list(sampler.denoise(network, start, special, sampler.Sampling(**sampling.model_dump()), draw))


def torch_network(pipeline):
    return lambda ids: pipeline.model(torch.from_numpy(ids)[None]).detach()[0].numpy()


def position_gap(pipeline, canvas, sampling, moment, one, other):
    logits = torch.from_numpy(torch_network(pipeline)(canvas))[None]
    seed, number, step = moment
    view = View(logits, torch.tensor([number]), step, seed, pipeline.tokenizer.end_id)
    score = POLICIES[sampling.unmasking](view)[0].double().numpy()
    return np.ptp(score[np.setxor1d(one, other)])


def token_gap(pipeline, canvas, sampling, moment, one, other):
    (position, *_) = np.flatnonzero(one != other)
    logits = torch_network(pipeline)(canvas)[[position]].astype(np.float64)
    scores = logits
    if sampling.temperature:
        at = sampler.Moment(*moment)
        uniform = sampler.token_uniforms(np.array([position]), at, logits.shape[-1])
        scores = logits / sampling.temperature - np.log(-np.log(uniform))
    return abs(scores[0, one[position]] - scores[0, other[position]])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("unmasking", sorted(POLICIES))
def test_where_rounding_parts_two_texts_the_candidates_were_nearly_equal(pipeline, unmasking, temperature):
    """The same network with rounding errors larger than onnxruntime's, and with real errors."""
    sampling = SamplingConfig(unmasking=unmasking, temperature=temperature, top_p=1.0)
    gaps = {}
    for size in (1e-5, 1.0):
        network = noisy(torch_network(pipeline), size)
        gaps[size] = [gap_at_first_difference(pipeline, network, "One day", sampling, (seed, 0)) for seed in range(4)]
    assert max(gaps[1e-5]) < 1e-4
    assert max(gaps[1.0]) > 1e-2


def noisy(network, size):
    generator = np.random.default_rng(0)

    def disturbed(ids):
        logits = network(ids)
        return logits + generator.uniform(-size, size, logits.shape).astype(np.float32)

    return disturbed


def test_the_command_runs_as_the_readme_says(bundle, pipeline, device, tmp_path):
    done = python(device, tmp_path, bundle / "generate.py", "One day", "--seed=3", "--samples=2", "--threads=1")
    texts = [sample.text for sample in pipeline.generate("One day", num_samples=2, seed=3).samples]
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n\n".join(texts) + "\n", "")


def test_json_has_the_keys_of_the_library(bundle, device, tmp_path):
    done = python(device, tmp_path, bundle / "generate.py", "One day", "--json", "--samples=2", "--steps=3")
    document = json.loads(done.stdout)
    assert set(document) == {"samples", "num_sampling_steps", "calls", "seconds", "tokens_per_s", "unmasking"}
    assert document["num_sampling_steps"] == 3
    assert document["calls"] == 6
    assert document["unmasking"] == "confidence"
    assert document["tokens_per_s"] > 0
    assert document["seconds"] > 0


def test_stream_shows_every_state_and_leaves_stdout_alone(bundle, capsys, run_here, pipeline):
    assert run_here(bundle, "One day", "--steps=4", "--stream") == 0
    text, states = capsys.readouterr()
    states = states.splitlines()
    masked = len(sampler_start(pipeline, "One day"))
    assert [state.count(generate.MASK_SIGN) for state in states] == [masked * left // 4 for left in (3, 2, 1, 0)]
    assert all(state.startswith("One day") for state in states)
    assert text == pipeline.generate("One day", sampling=SamplingConfig(num_sampling_steps=4)).samples[0].text + "\n"


def sampler_start(pipeline, prompt):
    return range(len(pipeline.tokenizer.encode(prompt)), pipeline.seq_len)


@pytest.fixture
def run_here(monkeypatch):
    """main() of a bundle in this process: quick, for what does not depend on the environment."""

    def run(folder, *arguments):
        monkeypatch.setattr(generate, "__file__", str(folder / "generate.py"))
        return generate.main([*arguments, "--threads=1"])

    return run


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--steps=0"], "argument --steps: got 0, wanted at least 1"),
        (["--steps=many"], "argument --steps: invalid integer value: 'many'"),
        (["--samples=0"], "argument --samples: got 0, wanted at least 1"),
        (["--top-k=0"], "argument --top-k: got 0, wanted at least 1"),
        (["--top-p=0"], "argument --top-p: got 0, wanted more than 0 and at most 1"),
        (["--top-p=1.5"], "argument --top-p: got 1.5, wanted more than 0 and at most 1"),
        (["--temperature=-1"], "argument --temperature: got -1, wanted 0 or more"),
        (["--temperature=nan"], "argument --temperature: got nan, wanted 0 or more"),
        (["--backend=cuda"], "argument --backend: invalid choice: 'cuda'"),
        (["--unmasking=luck"], "unknown unmasking 'luck'; wanted one of confidence, random"),
        (["--colour=red"], "unrecognized arguments: --colour=red"),
        (["a " * 40], "but the model writes 32 in all; shorten it to at most 31 tokens"),
        (["\udcff"], "is not valid UTF-8"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(bundle, capsys, run_here, arguments, line):
    assert run_here(bundle, *arguments) == 2
    require_one_line(capsys.readouterr(), line)


def require_one_line(captured, words):
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert captured.err.startswith("generate.py: ")


@pytest.fixture
def copied(bundle, tmp_path):
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_a_truncated_model_is_refused_in_one_line(copied, device, tmp_path):
    data = (copied / "model.onnx").read_bytes()
    (copied / "model.onnx").write_bytes(data[:-100])
    done = python(device, tmp_path, copied / "generate.py")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"generate.py: {copied / 'model.onnx'} has {len(data) - 100} bytes, wanted {len(data)}; copy the bundle again\n"
    )


@pytest.mark.parametrize("name", generate.DECIDE_THE_TEXT)
def test_a_flipped_byte_is_found(copied, capsys, run_here, name):
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    assert run_here(copied) == 2
    require_one_line(capsys.readouterr(), f"{copied / name} has another sha256 than manifest.json says")


@pytest.mark.parametrize("name", [*generate.DECIDE_THE_TEXT, "manifest.json"])
def test_a_missing_file_is_named(copied, capsys, run_here, name):
    (copied / name).unlink()
    assert run_here(copied) == 2
    require_one_line(capsys.readouterr(), f"{copied / name} is missing")


@pytest.mark.parametrize("name", ["sampler.py", "draws.py"])
def test_a_missing_program_file_is_one_line_in_a_fresh_process(copied, device, tmp_path, name):
    (copied / name).unlink()
    done = python(device, tmp_path, copied / "generate.py")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"No module named '{Path(name).stem}'; copy the bundle again" in done.stderr


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"seq_len": 31}, "does not match its own checksum"),
        ({"format_version": 2}, "has format_version 2, wanted 1"),
    ],
)
def test_a_changed_manifest_is_refused(copied, capsys, run_here, changed, line):
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, **changed}))
    assert run_here(copied) == 2
    require_one_line(capsys.readouterr(), line)


@pytest.mark.parametrize("content", ["", "[]", '{"format_version": 1}'])
def test_a_manifest_that_is_none_is_refused(copied, capsys, run_here, content):
    (copied / "manifest.json").write_text(content)
    assert run_here(copied) == 2
    require_one_line(capsys.readouterr(), "manifest.json is missing or damaged; copy the bundle again")


def test_characters_that_the_tokenizer_never_saw_are_named(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    encode, _ = generate.load_tokenizer(tmp_path / "tokenizer.json")
    assert encode("abba") == [0, 1, 1, 0]
    with pytest.raises(generate.InputError, match="never saw the characters 'yz'; leave them out"):
        encode("abzy")


def test_without_onnxruntime_it_says_what_to_install(bundle, device, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCKER.replace('"torch"', '"onnxruntime"'))
    done = python({**device, "PYTHONPATH": str(tmp_path)}, tmp_path, bundle / "generate.py")
    assert done.returncode == 2
    assert done.stderr == "generate.py: onnxruntime is not installed; run pip install -r requirements.txt\n"


@pytest.mark.parametrize("source", PROGRAM.values(), ids=PROGRAM)
def test_the_program_keeps_to_python_3_10(source):
    ast.parse(Path(source).read_text(encoding="utf-8"), feature_version=(3, 10))
