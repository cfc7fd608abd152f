"""The tiny bundle on arm64, under emulation: the same files, the same texts as here and as in the library.

`infra/arm64.sh` makes what it runs in. The packages are those of JetPack's requirements, the Python is Debian's.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ddlm.diffusion import SamplingConfig

ROOT = Path(__file__).parents[3]
CASES = [("", 0), ("One day", 1), ("The dog", 22), ("She was ", 2**40 + 3), ("Once upon a time", -4)]
PROGRAM = """
import binascii, json, platform, sys
sys.path.insert(0, sys.argv[1])
import numpy, onnxruntime, tokenizers
from pathlib import Path
import backends, contents, writing
loaded = contents.load_bundle(Path(sys.argv[1]), threads=1)
texts = []
for kind in ("logits", "step"):
    backend = backends.backend_of(loaded, kind=kind)
    for prompt, seed in json.loads(sys.argv[2]):
        (sample,) = writing.generate(loaded, backend, writing.Order(prompt, seed=seed), loaded.sampling)["samples"]
        ids = numpy.array(sample["tokens"], dtype=numpy.int32)
        texts.append([kind, prompt, seed, sample["text"], binascii.crc32(ids.tobytes())])
print(json.dumps({"machine": platform.machine(), "onnxruntime": onnxruntime.__version__, "texts": texts}))
"""

pytestmark = [pytest.mark.arm64, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def arm64():
    folder = Path(os.environ.get("DDLM_HOME") or ROOT / "outputs") / "arm64"
    done = subprocess.run(["sh", ROOT / "infra" / "arm64.sh", folder], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def here(bundle):
    return ran([sys.executable], bundle, {"PYTHONPATH": ""})


def ran(command, bundle, environment):
    words = [*map(str, command), "-c", PROGRAM, str(bundle), json.dumps(CASES)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("release", "onnxruntime"), [("jp62", "1.23."), ("jp72", "1.")])
def test_five_texts_are_those_of_this_machine_and_of_the_library(bundle, pipeline, arm64, here, release, onnxruntime):
    emulated = ["qemu-aarch64-static", "-L", arm64 / "root", arm64 / "root" / "usr" / "bin" / "python3"]
    there = ran(emulated, bundle, {"PYTHONPATH": str(arm64 / release), "PYTHONDONTWRITEBYTECODE": "1"})
    assert there["machine"] == "aarch64"
    assert there["onnxruntime"].startswith(onnxruntime)
    assert here["machine"] == platform.machine()
    assert there["texts"] == here["texts"]
    sampling = SamplingConfig(**json.loads((bundle / "manifest.json").read_text())["sampling"])
    library = [pipeline.generate(prompt, sampling=sampling, seed=seed).samples[0].text for prompt, seed in CASES]
    assert [text for kind, _, _, text, _ in there["texts"] if kind == "logits"] == library
    assert [text for kind, _, _, text, _ in there["texts"] if kind == "step"] == library
