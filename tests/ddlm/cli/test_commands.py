"""What commands print, and that they start fast."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ddlm.cli import main

TINY = str(Path(__file__).parents[3] / "configs" / "tiny.toml")
Ddlm = Callable[..., str]


@pytest.fixture
def ddlm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ddlm:
    """Runs a command that succeeds. Returns its stdout."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ddlm", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capsys.readouterr()
        assert not exited.value.code, err
        return out

    return run


def test_help_imports_nothing_heavy() -> None:
    heavy = "('torch', 'mlflow', 'prefect', 'datasets', 'pyarrow', 'pandas', 'matplotlib', 'onnx')"
    script = (
        "import sys; sys.argv = ['ddlm', '--help']\nfrom ddlm.cli import main\n"
        f"try: main()\nexcept SystemExit: pass\nassert not [name for name in {heavy} if name in sys.modules]"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ddlm run configs/quick.toml" in done.stdout


def test_the_resolved_config_is_toml(ddlm: Ddlm) -> None:
    assert "steps = 99" in ddlm("config", TINY, "--set", "training.steps=99")


def test_generate_and_infill_speak_json(ddlm: Ddlm, tiny_model: Path) -> None:
    made = json.loads(ddlm("generate", str(tiny_model), "Once", "--steps", "4", "--samples", "2", "--json"))
    assert len(made["samples"]) == 2
    assert {"text", "tokens", "prompt", "seed"} <= set(made["samples"][0])
    assert made["num_sampling_steps"] == made["calls"] == 4
    assert made["unmasking"] == "random"
    assert made["tokens_per_s"] > 0
    filled = json.loads(ddlm("infill", str(tiny_model), "A ___ ran.", "--json"))
    assert filled["samples"][0]["text"].endswith(" ran.")
    assert ddlm("generate", str(tiny_model), "Once", "--steps", "4").startswith("Once")


def test_watching_leaves_the_text_on_stdout(ddlm: Ddlm, tiny_model: Path) -> None:
    plain = ddlm("generate", str(tiny_model), "Once", "--steps", "4", "--seed", "3")
    assert ddlm("generate", str(tiny_model), "Once", "--steps", "4", "--seed", "3", "--watch") == plain


def test_evaluate_speaks_json_with_the_promised_keys(ddlm: Ddlm, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "stories.txt").write_text(
        "".join(
            f"Tom had {count} red balls. He ran home to his mom.\nThe dog saw {count} cats.\n" for count in range(9)
        )
    )
    data = str(tmp_path / "stories.txt")
    scores = json.loads(ddlm("evaluate", str(tiny_model), "--data", data, "--budget", "quick", "--json"))
    wanted = {"nll_nats", "nll_nats_stderr", "bits_per_byte", "bits_per_byte_interval", "bound", "bleu", "self_bleu"}
    assert wanted | {"samples", "data_digest", "model", "seed_protocols"} <= set(scores)
    assert {"loss", "accuracy"} <= set(scores["seed_protocols"]["S3"])
    assert scores["bound"] == "upper"


def test_render_writes_what_the_suffix_says(ddlm: Ddlm, tiny_model: Path, tmp_path: Path) -> None:
    for name, magic in (("film.gif", b"GIF89a"), ("film.webp", b"RIFF"), ("still.png", b"\x89PNG")):
        ddlm("render", str(tiny_model), "Once", "-o", str(tmp_path / name), "--steps", "4")
        assert (tmp_path / name).read_bytes().startswith(magic)


def test_render_makes_a_sheet_of_the_wanted_size(ddlm: Ddlm, tiny_model: Path, tmp_path: Path) -> None:
    sizes = ("--width", "480", "--height", "320", "--font-size", "12", "--set", "rendering.hold_s=1")
    ddlm("render", str(tiny_model), "--theme", "heat", "--sheet", "4", "-o", str(tmp_path / "a.png"), *sizes)
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (2 * (240 + 12) + 12, 2 * (160 + 12) + 12)


def test_artifacts_are_listed_and_collected(ddlm: Ddlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDLM_HOME", str(tmp_path / "home"))
    ddlm("run", TINY, "--no-prefect", "--until", "corpus", "--set", "tracking.backend=none")
    ddlm("run", TINY, "--no-prefect", "--until", "corpus", "--set", "tracking.backend=none",
         "--set", "corpus.validation_fraction=0.2")  # fmt: skip
    lines = ddlm("artifacts", "list").splitlines()
    assert len(lines) == 2
    assert [line.endswith("used") for line in lines].count(True) == 1
    assert "removed 1" in ddlm("artifacts", "gc")
    assert len(ddlm("artifacts", "list").splitlines()) == 1
    ddlm("run", TINY, "--no-prefect", "--until", "tokenizer", "--set", "tracking.backend=none")
    corpus, tokenizer = ddlm("artifacts", "list").splitlines()[-2:]
    assert tokenizer.split("from ")[1] == f"corpus/{corpus.split()[1][:8]}"


def test_benches_speak_json_with_the_promised_keys(ddlm: Ddlm, tmp_path: Path) -> None:
    small = ("--set", "training.batch_size=2", "--set", "model.d_model=16", "--set", "model.num_heads=2", "--json")
    train = json.loads(ddlm("bench", "train", TINY, *small, "--steps", "2", "--profile", str(tmp_path / "trace")))
    assert {"parameters", "tokens_per_s", "flops_per_s", "matrix_flops_per_s", "utilisation"} <= set(train)
    assert {"optimizer_share", "peak_memory_bytes", "precision"} <= set(train)
    assert set(train["seconds_by_part"]) == {"data", "noise", "forward", "backward", "optimizer", "rest"}
    assert (tmp_path / "trace" / "trace.json").is_file()
    rows = json.loads(ddlm("bench", "sample", TINY, *small, "--steps", "4"))["rows"]
    assert {"unmasking", "batch_size", "num_sampling_steps", "calls", "ms_per_call"} <= set(rows[0])
    assert {"tokens_per_s", "outside_network_share"} <= set(rows[0])


def test_doctor_tells_versions_and_hardware(ddlm: Ddlm) -> None:
    found = json.loads(ddlm("doctor", "--json"))
    assert {"python", "torch", "prefect", "mlflow", "device", "precision", "free_disk_bytes"} <= set(found)


def test_doctor_says_sizes_as_people_do(ddlm: Ddlm) -> None:
    (line,) = [line for line in ddlm("doctor").splitlines() if line.startswith("free disk ")]
    assert line.endswith(("GB", "MB"))
    assert "_" not in line


def test_version(ddlm: Ddlm) -> None:
    assert ddlm("--version").strip() == "0.1.0"
