"""The bundle as a stranger runs it: another folder, no torch, no ddlm."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
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
PROMPTS = ("", "One day", "The <|endoftext|> of the  café 🙂\n")
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
    return [prompt, f"--seed={seed}", f"--samples={samples}", *given]


def test_the_device_really_lacks_torch_and_ddlm(device, tmp_path):
    for name in ("torch", "ddlm"):
        assert "is not on this device" in python(device, tmp_path, "-c", f"import {name}").stderr


def test_the_bundle_writes_the_librarys_text(bundle, pipeline, device, tmp_path):
    asked = json.dumps([flags(*case, samples=2) for case in CASES])
    done = python(device, tmp_path, "-c", MANY, bundle, stdin=asked)
    assert done.returncode == 0, done.stderr
    for (prompt, seed, settings), line in zip(CASES, done.stdout.splitlines(), strict=True):
        require_same(pipeline, bundle, prompt, seed, SamplingConfig(**settings), json.loads(line))


def require_same(pipeline, bundle, prompt, seed, sampling, made):
    """Equal samples; where one differs, the two runtimes chose between candidates of equal score but for rounding."""
    library = pipeline.generate(prompt, num_samples=2, sampling=sampling, seed=seed)
    assert made["num_sampling_steps"] == library.num_sampling_steps
    for number, (ours, theirs) in enumerate(zip(library.samples, made["samples"], strict=True)):
        if tuple(theirs["tokens"]) != ours.tokens:
            network = network_of(bundle)
            assert gap_at_first_difference(pipeline, network, prompt, sampling, (seed, number)) < 1e-4
        else:
            assert theirs == {"text": ours.text, "tokens": list(ours.tokens), "prompt": prompt, "seed": seed}


def network_of(bundle):
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    return lambda ids: session.run(["logits"], {"ids": ids.astype(np.int32)[None]})[0][0]


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
    """The same network with rounding errors a hundred times larger than onnxruntime's, and with real errors."""
    sampling = SamplingConfig(unmasking=unmasking, temperature=temperature, top_p=1.0)
    gaps = {}
    for size in (1e-5, 1.0):
        network = noisy(torch_network(pipeline), size)
        gaps[size] = [gap_at_first_difference(pipeline, network, "", sampling, (seed, 0)) for seed in range(6)]
    assert max(gaps[1e-5]) < 1e-4
    assert max(gaps[1.0]) > 1e-2


def noisy(network, size):
    generator = np.random.default_rng(0)
    return lambda ids: network(ids) + generator.uniform(-size, size, (len(ids), 1)).astype(np.float32) * np.sin(
        np.arange(network(ids).shape[-1], dtype=np.float32)
    )
