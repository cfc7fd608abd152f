"""generate, infill and chat as people call them."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ddlm.cli import main
from ddlm.model import ModelConfig, device
from ddlm.model.folder import ModelFolder
from ddlm.model.transformer import Denoiser
from ddlm.tokenizer import MASK, Tokenizer, TokenizerConfig, train_bpe

Result = tuple[int, str, str]
Ddlm = Callable[..., Result]
FAST = ("--steps", "4", "--precision", "float32")


@pytest.fixture
def ddlm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ddlm:
    """Runs a command in this process. Returns its exit code, stdout and stderr."""

    def run(*arguments: str, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["ddlm", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capsys.readouterr()
        return int(exited.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    backend = train_bpe(
        [["Once upon a time there was a dog."] * 9], TokenizerConfig(vocab_size=280, min_frequency=1, chat=True)
    )
    backend.add_special_tokens([MASK])
    tokenizer = Tokenizer(backend)
    network = Denoiser(ModelConfig(d_model=16, num_layers=1, num_heads=1), vocab_size=tokenizer.vocab_size, seq_len=64)
    torch.manual_seed(0)
    torch.nn.init.normal_(network.head_weight)
    from ddlm.generation import DiffusionPipeline

    DiffusionPipeline(
        network, tokenizer, ModelFolder.of(network, end_id=tokenizer.end_id, objective={})
    ).save_pretrained(folder)
    return folder


def test_stdout_holds_the_text_alone_and_a_seed_fixes_it(ddlm: Ddlm, tiny_model: Path) -> None:
    code, text, err = ddlm("generate", str(tiny_model), "Once", *FAST, "--seed", "7")
    assert (code, err) == (0, "")
    assert text.startswith("Once")
    assert ddlm("generate", str(tiny_model), "Once", *FAST, "--seed", "7")[1] == text
    assert ddlm("generate", str(tiny_model), "Once", *FAST, "--seed", "8")[1] != text


def test_an_ellipsis_says_that_the_canvas_cut_a_text_off(ddlm: Ddlm, tiny_model: Path) -> None:
    full = ("generate", str(tiny_model), "Once", *FAST, "--set", "sampling.ends=last")
    (cut,) = json.loads(ddlm(*full, "--json")[1])["samples"]
    assert not cut["ended"]
    assert not cut["text"].endswith("…")
    assert ddlm(*full)[1] == f"{cut['text'].rstrip('�').rstrip()} …\n"
    (exact,) = json.loads(ddlm(*full, "--length", "9", "--json")[1])["samples"]
    assert exact["ended"]
    assert ddlm(*full, "--length", "9")[1] == f"{exact['text']}\n"


def test_several_texts_are_told_apart(ddlm: Ddlm, tiny_model: Path) -> None:
    _, one, _ = ddlm("generate", str(tiny_model), "Once", *FAST)
    _, several, _ = ddlm("generate", str(tiny_model), "Once", *FAST, "--samples", "3")
    assert several.startswith(f"── 1 of 3 ──\n{one}\n── 2 of 3 ──\nOnce")


@pytest.mark.parametrize(
    "arguments",
    [
        ["从前有一只狗"],
        [""],
        ["Once", "--length", "150"],
        ["word " * 2000, "--length", "4"],
        ["Once", "--samples", "70", "--steps", "1"],
        ["Once", "--steps", "1000", "--unmasking", "random"],
        ["Once", "--unmasking", "threshold", "--set", "sampling.threshold=0.5"],
        ["Once", "--unmasking", "remdm_loop", "--top-k", "5"],
        ["Once", "--set", "sampling.block_size=16", "--set", "sampling.cache=approximate"],
        ["Once", "--temperature", "0", "--top-p", "1"],
    ],
)
def test_what_should_work_does(ddlm: Ddlm, tiny_model: Path, arguments: list[str]) -> None:
    code, out, err = ddlm("generate", str(tiny_model), *FAST, *arguments, "--json")
    assert code == 0, err
    made = json.loads(out)
    wanted = {"samples", "num_sampling_steps", "calls", "seconds", "tokens_per_s", "unmasking", "precision"}
    assert wanted == set(made)
    for number, sample in enumerate(made["samples"]):
        assert {"text", "tokens", "prompt", "seed", "number", "ended"} == set(sample)
        assert sample["number"] == number
        assert sample["text"].startswith(arguments[0])
    assert len(made["samples"]) == (70 if "--samples" in arguments else 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "0"], "ddlm: --steps: Input should be greater than or equal to 1 (got 0)"),
        (["--top-p", "0"], "ddlm: --top-p: Input should be greater than 0 (got 0.0)"),
        (["--temperature", "-1"], "ddlm: --temperature: Input should be greater than or equal to 0 (got -1.0)"),
        (["--top-k", "0"], "ddlm: --top-k: Input should be greater than or equal to 1 (got 0)"),
        (["--temperature", "inf"], "ddlm: --temperature: Input should be a finite number (got inf)"),
        (["--samples", "0"], "generate: --samples: got '0', wanted at least 1"),
        (["--samples=x"], "generate: --samples: got 'x', wanted a whole number"),
        (["--seed", "-1"], "generate: --seed: got '-1', wanted at least 0"),
        (["--seed", "9" * 100], f"generate: --seed: got '{'9' * 59}… (102 characters), wanted at most"),
        (["--seeds", "1"], "generate: unknown option --seeds; did you mean --seed"),
        (["--length"], "ddlm: --length has no value; write --length VALUE"),
        (["Once", "upon", "a"], "generate: got upon a besides all that it takes; put a text with blanks into quotes"),
        (["--length", "0"], "generate: --length: got '0', wanted at least 1"),
        (["--length", "-5"], "generate: --length: got '-5', wanted at least 1"),
        (["--unmasking", "psychic"], "'left_to_right', 'confidence', 'margin'"),
        (["--precision", "half"], "--precision: got 'half', wanted auto, float32 or bfloat16"),
        (["--set", "sampling.threshold=0.5"], "sampling: threshold is for unmasking threshold, and that is random"),
        (["--set", "sampling.treshold=0.5"], "unknown key sampling.treshold; allowed here:"),
        (["--set", "training.steps=3"], "this command takes keys of sampling only"),
        (["--watch", "--json"], "--watch and --json: stdout can hold one of them"),
        (["word " * 2000], "tokens, but the model writes 64 in all; shorten it to at most 63 tokens"),
    ],
)
def test_a_wrong_wish_is_one_line(ddlm: Ddlm, tiny_model: Path, arguments: list[str], said: str) -> None:
    code, out, err = ddlm("generate", str(tiny_model), *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("ddlm: ")
    assert said in err


def test_watched_where_nobody_looks_every_step_is_a_line(ddlm: Ddlm, tiny_model: Path) -> None:
    plain = ddlm("generate", str(tiny_model), "Once", *FAST)[1]
    code, out, err = ddlm("generate", str(tiny_model), "Once", *FAST, "--watch")
    assert (code, out) == (0, plain)
    lines = err.splitlines()
    assert [line.split()[1] for line in lines] == [f"{step}/4" for step in range(5)]
    assert "█" in lines[0]
    assert "█" not in lines[-1]


def in_a_terminal(*arguments: str, stop_at: bytes | None = None) -> tuple[int, str]:
    """Runs a command, until it has shown something and Ctrl-C is pressed. Returns its exit code and what it showed."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ddlm", *arguments]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if stop_at and stop_at in shown:
            process.send_signal(signal.SIGINT)
            stop_at = None
    os.close(master)
    return process.wait(timeout=60), shown.decode(errors="replace")


def test_watched_in_a_terminal_the_text_is_edited_into_existence(tiny_model: Path) -> None:
    code, text = in_a_terminal("generate", str(tiny_model), "Once", *FAST, "--watch")
    assert code == 0
    assert "4/4 steps" in text
    assert " masks" in text
    assert "/s" in text
    assert text.rstrip().splitlines()[-1].strip()


def test_ctrl_c_leaves_the_text_that_was_watched(tiny_model: Path) -> None:
    wanted = ("generate", str(tiny_model), "Once", *FAST, "--length", "5000", "--watch")
    code, text = in_a_terminal(*wanted, stop_at=b"9/")
    assert code == 130
    before, said, after = text.rpartition("ddlm: stopped")
    left = before.rpartition("\x1b[2K")[2]  # behind the last line that was wiped
    assert (said, after.strip()) == ("ddlm: stopped", "")
    assert "Once" in left
    assert "steps" not in left


def test_ctrl_c_in_the_middle_is_one_line(tiny_model: Path) -> None:
    wanted = ["generate", str(tiny_model), "--samples", "5000", "--precision", "float32", "--watch"]
    command = [sys.executable, "-m", "ddlm", *wanted]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    assert process.stderr.readline().startswith("step 0/")  # it is writing
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    said = [line for line in err.splitlines() if not line.startswith("step ")]
    assert said == ["ddlm: stopped"]


@pytest.mark.parametrize("text", ["___[2] ran.", "A dog ___[2]", " ".join(["a ___[1]"] * 15), "The ___ ran to ___[3]."])
def test_gaps_are_filled(ddlm: Ddlm, tiny_model: Path, text: str) -> None:
    code, out, err = ddlm("infill", str(tiny_model), text, *FAST)
    assert code == 0, err
    assert out.strip()
    assert "___" not in out


def test_gaps_that_can_t_be_filled_are_one_line(ddlm: Ddlm, tiny_model: Path) -> None:
    for text, said in (
        ("no gap", "mark gaps with ___"),
        ("___[100]", "wanted ___[1] to ___[63]"),
        ("a ___[0]", "wanted ___[1] to ___[63]"),
    ):
        code, _, err = ddlm("infill", str(tiny_model), text)
        assert code == 2
        assert len(err.splitlines()) == 1
        assert said in err


def test_a_chat_answers_line_by_line(ddlm: Ddlm, chat_model: Path) -> None:
    code, out, err = ddlm("chat", str(chat_model), *FAST, "--system", "Be kind.", stdin="Hello\nA dog\n\nnever read\n")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) >= 2


def test_a_model_without_tags_can_t_chat(ddlm: Ddlm, tiny_model: Path) -> None:
    code, _, err = ddlm("chat", str(tiny_model), stdin="Hello\n")
    assert code == 2
    assert "chat: this model knows no chat tags; train one with tokenizer.chat=true" in err


@pytest.mark.skipif(bool(device.lacks_compiler()), reason="torch can't compile here")
def test_a_compiled_network_writes_the_same_text_but_for_rounding(tiny_model: Path) -> None:
    def tokens(compile: str) -> list[int]:
        command = [sys.executable, "-m", "ddlm", "generate", str(tiny_model), "--steps", "8", "--length", "40"]
        asked = [*command, "--precision", "float32", "--compile", compile, "--json"]
        done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=200)
        return list(json.loads(done.stdout)["samples"][0]["tokens"])

    same = [one == other for one, other in zip(tokens("on"), tokens("off"), strict=True)]
    assert sum(same) > 0.9 * len(same)
