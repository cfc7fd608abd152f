"""The bundle as a stranger runs it: another folder, no torch, no ddlm."""

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ddlm.diffusion import SamplingConfig
from ddlm.export.bundle import PROGRAM
from ddlm.export.runtime import contents, drafts, generate, integrity, options, tokens, writing
from ddlm.export.runtime.backends import backend_of
from ddlm.generation import Generation, Sample

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
    ("The dog ", 13, {}),
    ("One day", 2, {"temperature": 1.0, "unmasking": "random"}),
    ("", 3, {"temperature": 0.0, "unmasking": "random", "num_sampling_steps": 5}),
    ("A <|endoftext|> in the  café 🙂\n", 4, {"num_sampling_steps": 1}),
    ("She", 5, {"temperature": 1.0, "num_sampling_steps": 7, "top_k": 5, "top_p": 1.0}),
    ("She", -6, {"temperature": 1.3, "top_p": 0.5, "unmasking": "first_hitting"}),
    ("The dog", 2**33 + 7, {"num_sampling_steps": 1000, "top_k": 1}),
    ("One day", 8, {"length": 9, "temperature": 1.2}),
    ("The dog", 9, {"length": 12, "unmasking": "remdm_cap", "num_sampling_steps": 20}),
    ("", 10, {"unmasking": "entropy_bound", "temperature": 1.0}),
    ("One day", 11, {"unmasking": "revise", "num_sampling_steps": 6}),
    ("One day " * 12, 12, {"length": 50, "temperature": 1.0, "num_sampling_steps": 9}),
]
GAPS = [
    ("Once there was a ___[3] who ___[5].", 0, {}),
    ("___[2] and the dog", 1, {"temperature": 1.0, "unmasking": "random"}),
    ("She ___[1] the ______ and___", 3, {"temperature": 1.0}),
]
CASES += [(text, seed, {**settings, "infill": True}) for text, seed, settings in GAPS]
CHATS = [
    ("", 0, {}),
    ("One day", 1, {"temperature": 1.3, "unmasking": "left_to_right"}),
    ("She", 2, {"length": 7}),
    ("A ___ dog", 3, {"infill": True}),
]
DECIDE_THE_TEXT = sorted({*PROGRAM, integrity.MODEL, integrity.TOKENIZER, "build_engine.sh", "facts.sh"})
FLAGS = {
    "num_sampling_steps": "--steps", "unmasking": "--unmasking", "temperature": "--temperature", "top_k": "--top-k",
    "top_p": "--top-p", "length": "--length",
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
    given = ["--infill" if name == "infill" else f"{FLAGS[name]}={value}" for name, value in settings.items()]
    return [prompt, f"--seed={seed}", f"--samples={samples}", "--threads=1", *given]


def test_the_device_really_lacks_torch_and_ddlm(device, tmp_path):
    for name in ("torch", "ddlm"):
        assert "is not on this device" in python(device, tmp_path, "-c", f"import {name}").stderr


@pytest.mark.parametrize(("folder", "writer", "cases"), [
    ("bundle", "pipeline", CASES), ("chat_bundle", "chat_pipeline", CHATS),
], ids=["stories", "chat"])  # fmt: skip
def test_the_bundle_writes_the_librarys_text(request, device, tmp_path, folder, writer, cases):
    folder, pipeline = request.getfixturevalue(folder), request.getfixturevalue(writer)
    asked = json.dumps([flags(*case, samples=2) for case in cases])
    done = python(device, tmp_path, "-c", MANY, folder, stdin=asked)
    assert done.returncode == 0, done.stderr
    made = [json.loads(line) for line in done.stdout.splitlines()]
    device_bundle = contents.load_bundle(folder, threads=1)
    same = [
        sum(same_samples(pipeline, device_bundle, case, document)) for case, document in zip(cases, made, strict=True)
    ]
    assert sum(same) >= 2 * len(cases) - 2
    lengths = {len(sample["tokens"]) for document in made for sample in document["samples"]}
    assert len(lengths) >= 3  # some texts end by themselves, some fill the canvas


def test_the_bundle_of_a_twin_writes_its_text_from_left_to_right_and_in_no_other_order(
    device, tmp_path, twin_bundle, twin_pipeline
):
    command = (twin_bundle / "generate.py", "One day", "--seed=3", "--samples=4", "--threads=1")
    made = json.loads(python(device, tmp_path, *command, "--json").stdout)
    library = twin_pipeline.generate("One day", num_samples=4, seed=3, sampling=sampling_of(twin_bundle))
    assert [sample["tokens"] for sample in made["samples"]] == [list(sample.tokens) for sample in library.samples]
    refused = python(device, tmp_path, *command, "--unmasking=confidence")
    assert refused.returncode == 2
    assert "unmasking confidence: this model writes left_to_right only; leave it out" in refused.stderr


def same_samples(pipeline, bundle, case, made):
    """For each sample whether it is the library's. One that is not was a choice that hung on the logits' rounding."""
    prompt, seed, settings = case
    given = {name: value for name, value in settings.items() if name not in ("length", "infill")}
    sampling = sampling_of(bundle.folder, **given)
    given = {"num_samples": 2, "sampling": sampling, "seed": seed}
    if settings.get("infill"):
        library = pipeline.infill(prompt, **given)
    else:
        library = pipeline.generate(prompt, **given, length=settings.get("length"))
    same = []
    for number, (ours, theirs) in enumerate(zip(library.samples, made["samples"], strict=True)):
        same.append(theirs == {**asdict(ours), "tokens": list(ours.tokens)})
        assert same[-1] or is_fragile(replace(bundle, network=torch_network(pipeline)), case, number)
    assert made["num_sampling_steps"] == library.num_sampling_steps or not all(same)
    return same


def sampling_of(folder, **changed):
    """The bundle's own settings."""
    return SamplingConfig(**{**json.loads((folder / "manifest.json").read_text())["sampling"], **changed})


def is_fragile(bundle, case, number, size=1e-5):
    """Whether errors larger than onnxruntime's change the text."""
    calm = text_of(bundle, case, number)
    return any(text_of(replace(bundle, network=noisy(bundle.network, size, trial)), case, number) != calm
               for trial in range(8))  # fmt: skip


def text_of(bundle, case, number):
    asked = options.command_line().parse_args(flags(*case, samples=1))
    order, sampling = order_of(asked), writing.sampling_from(vars(asked), bundle)
    made = [
        writing.write(bundle, backend_of(bundle), draft, number, asked.seed, sampling)
        for draft in writing.drafts_of(bundle, order)
    ]
    return writing.least_surprising(bundle, made).ids


def order_of(asked):
    return writing.Order(asked.prompt, asked.samples, asked.seed, asked.length, asked.infill)


def documents_of(bundle, *arguments):
    asked = options.command_line().parse_args(arguments)
    sampling = writing.sampling_from(vars(asked), bundle)
    return writing.generate(bundle, backend_of(bundle), order_of(asked), sampling)


def torch_network(pipeline):
    return lambda ids: pipeline.model(torch.from_numpy(ids)[None]).detach()[0].numpy()


def noisy(network, size, trial):
    generator = np.random.default_rng(trial)

    def disturbed(ids):
        logits = network(ids)
        return logits + generator.uniform(-size, size, logits.shape).astype(np.float32)

    return disturbed


@pytest.mark.parametrize("unmasking", ["confidence", "random", "revise"])
def test_few_texts_hang_on_rounding_and_all_on_real_errors(pipeline, bundle, unmasking):
    """So that a sampler which differs from the library's is not taken for rounding."""
    exact = replace(contents.load_bundle(bundle, threads=1), network=torch_network(pipeline))
    cases = [("One day", seed, {"unmasking": unmasking, "num_sampling_steps": 8}) for seed in range(4)]
    assert sum(is_fragile(exact, case, 0) for case in cases) <= 1
    assert all(is_fragile(exact, case, 0, size=1.0) for case in cases)


def test_an_id_that_no_text_may_have_does_not_come_out_however_likely_it_is(chat_bundle):
    loaded = contents.load_bundle(chat_bundle, threads=1)
    unwanted = list(loaded.forbidden)

    def network(ids):
        logits = loaded.network(ids)
        logits[:, unwanted] = 50
        return logits

    made = documents_of(replace(loaded, network=network), "One day", "--samples=5")
    assert not {token for sample in made["samples"] for token in sample["tokens"]} & set(unwanted)
    assert all(sample["text"].startswith("One day") for sample in made["samples"])


def test_an_end_that_is_asked_for_late_does_not_come_early_and_cuts_there(bundle):
    loaded = contents.load_bundle(bundle, threads=1)

    def network(ids):
        logits = loaded.network(ids)
        logits[:, loaded.end_id] = 50
        return logits

    ends = replace(loaded, network=network)
    for length in (1, 6, 20):
        (sample,) = documents_of(ends, "One day", f"--length={length}")["samples"]
        assert len(sample["tokens"]) == len(loaded.encode("One day")) + length
        assert loaded.end_id not in sample["tokens"]
    assert documents_of(ends, "One day")["samples"][0]["text"] == "One day"


def test_another_policy_drops_what_belongs_to_the_manifests(bundle):
    configured = SamplingConfig(unmasking="threshold", threshold=0.4, most_per_step=3, grid="cosine")
    loaded = replace(contents.load_bundle(bundle), sampling=tokens.Sampling(**configured.model_dump()))

    def chosen(*flags):
        return asdict(writing.sampling_from(vars(options.command_line().parse_args(flags)), loaded))

    assert chosen() == configured.model_dump()
    assert chosen("--steps=3") == {**configured.model_dump(), "num_sampling_steps": 3}
    random = SamplingConfig(**chosen("--unmasking=random"))  # which the library would refuse with a threshold
    assert random == SamplingConfig(unmasking="random", grid="cosine")
    bound = SamplingConfig(**chosen("--unmasking=entropy_bound"))
    assert bound == SamplingConfig(unmasking="entropy_bound", most_per_step=3, grid="cosine")


def test_the_command_runs_as_the_readme_says(bundle, pipeline, device, tmp_path):
    done = python(device, tmp_path, bundle / "generate.py", "One day", "--seed=3", "--samples=2", "--threads=1")
    library = pipeline.generate("One day", num_samples=2, seed=3, sampling=sampling_of(bundle))
    texts = [sample.text.replace("\r", "\n") for sample in library.samples]  # as the pipe gives them
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n\n".join(texts) + "\n", "")


@pytest.mark.parametrize("program", ["generate.py", "measure.py"])
def test_onnxruntime_reports_nothing_and_leaves_no_id_of_the_device(bundle, device, tmp_path, program):
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = python({**device, **home}, tmp_path, bundle / program, "--steps=1", "--samples=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_json_has_the_keys_of_the_library(bundle, device, tmp_path):
    done = python(device, tmp_path, bundle / "generate.py", "One day", "--json", "--samples=2", "--steps=3")
    document = json.loads(done.stdout)
    assert list(document) == [field.name for field in fields(Generation)]
    assert list(document["samples"][0]) == [field.name for field in fields(Sample)]
    assert document["num_sampling_steps"] == 3
    assert document["calls"] == 6
    assert document["unmasking"] == "random"
    assert document["tokens_per_s"] > 0
    assert document["seconds"] > 0


def test_stream_shows_every_state_and_leaves_stdout_alone(bundle, capsys, run_here, pipeline):
    assert run_here(bundle, "One day", "--steps=4", "--stream") == 0
    text, states = capsys.readouterr()
    states = states.splitlines()
    masked = len(sampler_start(pipeline, "One day"))
    left = [state.count(drafts.MASK_SIGN) for state in states]
    assert len(left) == 4
    assert masked > left[0] > left[1] > left[2] > left[3] == 0
    assert all(state.startswith("One day") for state in states)
    library = pipeline.generate("One day", sampling=sampling_of(bundle, num_sampling_steps=4))
    assert text == library.samples[0].text + "\n"


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
        (["--unmasking=luck"], "unknown unmasking 'luck'; wanted one of random, first_hitting, left_to_right, conf"),
        (["--length=0"], "argument --length: got 0, wanted at least 1"),
        (["--colour=red"], "unrecognized arguments: --colour=red"),
        (["a " * 40], "but the model writes 32 in all; shorten it to at most 31 tokens, or give --length"),
        (["--infill", "One day."], "infill: no gap in 'One day.'; mark gaps with ___, or ___[5] for five tokens"),
        (["--infill", "One ___[32]."], "infill: a gap ___[32]; wanted ___[1] to ___[31]"),
        (["--infill", f"One ___[{'9' * 5000}]."], "; wanted ___[1] to ___[31]"),
        (["--infill", "a ___ " * 40], "but the model takes 32; shorten the text"),
        (["--infill", "One ___.", "--length=3"], "infill: takes no length; the gaps say how long they are: ___[5]"),
        (["--graph=step", "--precision=int4"], "this bundle has no step graph in int4; of that kind it has float16, f"),
        (["--precision=int4"], "this bundle has no logits graph in int4; of that kind it has float32"),
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


@pytest.mark.parametrize("name", DECIDE_THE_TEXT)
def test_a_flipped_byte_is_found(copied, capsys, run_here, name):
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    assert run_here(copied) == 2
    require_one_line(capsys.readouterr(), f"{copied / name} has another sha256 than manifest.json says")


@pytest.mark.parametrize("name", [*DECIDE_THE_TEXT, "manifest.json"])
def test_a_missing_file_is_named(copied, capsys, run_here, name):
    (copied / name).unlink()
    assert run_here(copied) == 2
    require_one_line(capsys.readouterr(), f"{copied / name} is missing")


@pytest.mark.parametrize("name", ["integrity.py", "options.py"])
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
        ({"format_version": 1}, "has format_version 1, wanted 3"),
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
    encode, _ = contents.load_tokenizer(tmp_path / "tokenizer.json")
    assert encode("abba") == [0, 1, 1, 0]
    with pytest.raises(options.InputError, match="never saw the characters 'yz'; leave them out"):
        encode("abzy")


def test_without_onnxruntime_it_says_what_to_install(bundle, device, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCKER.replace('"torch"', '"onnxruntime"'))
    done = python({**device, "PYTHONPATH": str(tmp_path)}, tmp_path, bundle / "generate.py")
    assert done.returncode == 2
    assert done.stderr == (
        "generate.py: onnxruntime is not installed; run pip install numpy onnxruntime tokenizers, "
        "on a Jetson pip install -r requirements-jp62.txt\n"
    )


@pytest.mark.parametrize("source", PROGRAM.values(), ids=PROGRAM)
def test_the_program_keeps_to_python_3_10(source):
    ast.parse(Path(source).read_text(encoding="utf-8"), feature_version=(3, 10))
