"""The bundle: a folder that writes text on a device that has neither torch nor ddlm."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddlm import draws
from ddlm.artifacts import sha256_file, write_atomically
from ddlm.diffusion import SamplingConfig
from ddlm.export.runtime import contents, generate, sampler, tokens, unmasking
from ddlm.tokenizer import Tokenizer

PROGRAM = {
    "contents.py": contents.__file__,
    "draws.py": draws.__file__,
    "generate.py": generate.__file__,
    "sampler.py": sampler.__file__,
    "tokens.py": tokens.__file__,
    "unmasking.py": unmasking.__file__,
}
"""What runs on the device, shipped as it is."""

REQUIREMENTS = """\
# JetPack 6.2 has Python 3.10, and these are the last onnxruntime and numpy for it.
# With Python 3.11 and later (JetPack 7.2 has 3.12) newer ones do as well.
onnxruntime==1.23.2
numpy==2.2.6
tokenizers>=0.21
"""

README = """\
# A small diffusion language model for the Jetson

`model.onnx` is the network: int32 ids `[1, {seq_len}]` to float32 logits `[1, {seq_len}, {vocab_size}]`, opset {opset}.
`generate.py` writes text with it. It needs Python 3.10 or later and the three packages of `requirements.txt`;
torch is not among them.

## On the device (JetPack 6.2 or 7.2)

    sudo apt-get install -y python3-venv
    python3 -m venv .venv
    .venv/bin/pip install -r requirements.txt
    .venv/bin/python generate.py "Once upon a time"

    .venv/bin/python generate.py "One day" --samples 3 --seed 7 --json
    .venv/bin/python generate.py "One day" --steps 16 --unmasking random --temperature 1 --stream
    .venv/bin/python generate.py "One day" --length 20

The network runs in onnxruntime on the processor, in float32. A seed and settings fix the text: the library that made
this folder writes the same one in float32. Fewer `--steps` are faster, in proportion, and write worse text. The model
decides where a text ends, unless `--length` says how many tokens to write.

## What is in it

    model.onnx        the network, one file
    tokenizer.json    text to ids and back
    manifest.json     sizes, ids, sampling defaults, how close onnxruntime came to torch, sha256 of each file
    generate.py       the command; contents.py checks and loads this folder
    sampler.py        the algorithm; unmasking.py which places are written next; tokens.py which tokens; draws.py chance
    requirements.txt  for pip

`generate.py` compares the files with `manifest.json` before it writes anything.
How fast it is on a device is for you to measure there; no such number is claimed here.
"""


def finish(
    folder: Path,
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    opset: int,
    sampling: SamplingConfig,
    is_autoregressive: bool,
    parity: Mapping[str, Any],
) -> None:
    """Put everything else beside `model.onnx`; the manifest, last, makes it a bundle. Holds no times and no hosts."""
    sizes = {"seq_len": seq_len, "vocab_size": tokenizer.vocab_size, "opset": opset}
    for name, source in PROGRAM.items():
        (folder / name).write_bytes(Path(source).read_bytes())
    tokenizer.backend.save(str(folder / contents.TOKENIZER))
    (folder / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")
    (folder / "README.md").write_text(README.format(**sizes), encoding="utf-8")
    manifest: dict[str, Any] = {
        "format_version": contents.FORMAT_VERSION,
        **sizes,
        "end_id": tokenizer.end_id,
        "mask_id": tokenizer.mask_id,
        "prefix": tokenizer.story_prefix,
        "stop_ids": tokenizer.stop_ids,
        "forbidden": tokenizer.unwritable_ids,
        "sampling": sampling.model_dump(mode="json"),
        "is_autoregressive": is_autoregressive,
        "parity": dict(parity),
        "files": {path.name: describe(path) for path in sorted(folder.iterdir())},
    }
    manifest["checksum"] = contents.checksum_of(manifest)
    write_atomically(folder / contents.MANIFEST, json.dumps(manifest, indent=1).encode())


def describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def is_bundle(folder: Path) -> bool:
    try:
        contents.read_manifest(folder)
    except contents.InputError:
        return False
    return True
