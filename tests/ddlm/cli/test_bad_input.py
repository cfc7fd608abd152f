"""The user's mistakes: one line on stderr, exit code 2, nothing lost."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from ddlm.cli import explain, main

CONFIGS = Path(__file__).parents[3] / "configs"
TINY = str(CONFIGS / "tiny.toml")
Ddlm = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ddlm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ddlm:
    """Runs a command in this process. Returns its exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ddlm", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capsys.readouterr()
        return int(exited.value.code or 0), out, err

    return run


def assert_refused(result: tuple[int, str, str], *said: str) -> None:
    """Exit code 2 and one line that says each of these."""
    code, _, err = result
    last = [line for line in err.splitlines() if line.startswith("ddlm: ")]
    assert code == 2, err
    assert len(last) == 1, err
    assert "Traceback" not in err
    for words in said:
        assert words in last[0], err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.stepz=1", "unknown key training.stepz"),
        ("training.steps=soon", "training.steps"),
        ("training.steps=-3", "greater than or equal to 1"),
        ("training.steps", "wanted section.key=value"),
        ("rendering.theme=sepia", "unknown theme 'sepia'"),
        ("training.device=cuda:7", "training.device"),
    ],
)
def test_a_wrong_override(ddlm: Ddlm, override: str, said: str) -> None:
    assert_refused(ddlm("run", TINY, "--set", override, "--no-prefect"), said)


def test_a_config_that_is_missing_or_not_toml(ddlm: Ddlm, tmp_path: Path) -> None:
    assert_refused(ddlm("run", str(tmp_path / "none.toml")), "no such file")
    (tmp_path / "bad.toml").write_text("[training\nsteps=1")
    assert_refused(ddlm("config", str(tmp_path / "bad.toml")), "not valid TOML", "line")


def test_an_unknown_stage(ddlm: Ddlm) -> None:
    assert_refused(ddlm("run", TINY, "--until", "trian", "--no-prefect"), "unknown stage 'trian'", "corpus")
    assert_refused(ddlm("run", TINY, "--force", "trian", "--no-prefect"), "unknown stage 'trian'")


def run_on(ddlm: Ddlm, source: Path, *more: str) -> tuple[int, str, str]:
    return ddlm("run", TINY, "--no-prefect", "--until", "tokenizer", "--set", f"corpus.source={source}", *more)


def test_corpora_that_are_none(ddlm: Ddlm, tmp_path: Path) -> None:
    assert_refused(run_on(ddlm, tmp_path / "none.txt"), "no such file")
    pd.DataFrame({"words": ["a"]}).to_parquet(tmp_path / "column.parquet")
    assert_refused(run_on(ddlm, tmp_path / "column.parquet"), "'text'", "words")
    (tmp_path / "empty.txt").write_text("")
    assert_refused(run_on(ddlm, tmp_path / "empty.txt"), "0 stories")
    (tmp_path / "three.txt").write_text("One day.\nTwo days.\nThree days.\n")
    assert_refused(run_on(ddlm, tmp_path / "three.txt"), "wanted at least 8")
    (tmp_path / "junk.txt").write_bytes(bytes(range(256)) * 50)
    assert_refused(run_on(ddlm, tmp_path / "junk.txt"), "UTF-8")
    (tmp_path / "junk.parquet").write_bytes(bytes(range(256)) * 50)
    assert_refused(run_on(ddlm, tmp_path / "junk.parquet"), "not a readable parquet file")
    (tmp_path / "latin.txt").write_bytes("Ein Bär.\n".encode("latin-1") * 20)
    assert_refused(run_on(ddlm, tmp_path / "latin.txt"), "UTF-8")


def test_a_vocabulary_that_the_text_can_not_support(ddlm: Ddlm) -> None:
    result = ddlm("run", TINY, "--no-prefect", "--until", "tokenizer", "--set", "tokenizer.vocab_size=60000")
    assert_refused(result, "vocab_size", "60000")


def test_an_unreachable_hub_names_the_local_alternatives(ddlm: Ddlm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = ddlm("run", TINY, "--no-prefect", "--set", "corpus.source=roneneldan/TinyStories")
    assert_refused(result, "the hub can't be reached", "local file or folder", 'offline="sample"')


def test_a_model_that_is_nowhere(ddlm: Ddlm) -> None:
    assert_refused(ddlm("generate", "nothing"), "model nothing", "no such folder or experiment")


@pytest.fixture
def broken_model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_folder_with_a_file_missing(ddlm: Ddlm, broken_model: Path, name: str) -> None:
    (broken_model / name).unlink()
    assert_refused(ddlm("generate", str(broken_model)), name, "missing")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_folder_with_a_file_truncated(ddlm: Ddlm, broken_model: Path, name: str) -> None:
    path = broken_model / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_refused(ddlm("generate", str(broken_model)), name)


def test_a_pickle_is_never_loaded(ddlm: Ddlm, broken_model: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "loaded"),)

    (broken_model / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    assert_refused(ddlm("generate", str(broken_model)), "a pickle, which ddlm never loads")
    (broken_model / "model.safetensors").rename(broken_model / "model.pt")
    assert_refused(ddlm("generate", str(broken_model)), "model.pt is a pickle")
    assert not (tmp_path / "loaded").exists()


def test_a_model_of_a_newer_format(ddlm: Ddlm, broken_model: Path) -> None:
    config = json.loads((broken_model / "config.json").read_text())
    (broken_model / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    assert_refused(ddlm("generate", str(broken_model)), "format_version 99")


def test_faces_refuse_what_they_do_not_know(ddlm: Ddlm, tiny_model: Path, tmp_path: Path) -> None:
    assert_refused(ddlm("render", str(tiny_model), "-o", str(tmp_path / "a.gif"), "--theme", "sepia"), "unknown theme")
    assert_refused(ddlm("render", str(tiny_model), "-o", str(tmp_path / "a.avi")), ".gif")
    assert_refused(ddlm("render", str(tiny_model), "-o", str(tmp_path / "a.gif"), "--sheet", "4"), ".png")
    assert_refused(ddlm("render", str(tiny_model), "-o", "a.png", "--sheet", "1"), "rendering.moments")
    assert_refused(ddlm("render", str(tiny_model), "-o", "a.png", "--width", "5"), "rendering.width")
    assert_refused(ddlm("render", str(tiny_model), "-o", "a.png", "--set", "rendering.colour=red"), "rendering.colour")
    assert_refused(ddlm("render", str(tiny_model), "-o", str(tmp_path / "no" / "a.gif")), "can't be written")
    assert_refused(ddlm("evaluate", str(tiny_model), "--data", str(tmp_path / "none.parquet")), "none.parquet")
    assert_refused(ddlm("evaluate", str(tiny_model), "--data", TINY, "--budget", "huge"), "unknown budget 'huge'")


def test_a_home_that_can_not_be_made(ddlm: Ddlm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDLM_HOME", "/proc/nothing")
    result = ddlm("run", TINY, "--no-prefect", "--until", "corpus")
    assert_refused(result, "set DDLM_HOME to a folder that can be written")


def test_a_read_only_disk(ddlm: Ddlm, monkeypatch: pytest.MonkeyPatch, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    monkeypatch.setenv("DDLM_HOME", str(small_disk))
    result = ddlm("run", TINY, "--no-prefect", "--until", "corpus")
    assert_refused(result, "Read-only file system", "set DDLM_HOME to a folder that can be written")


@pytest.fixture
def small_disk(tmp_path: Path) -> object:
    """A file system of 600 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_loses_nothing(
    ddlm: Ddlm, monkeypatch: pytest.MonkeyPatch, small_disk: Path
) -> None:
    monkeypatch.setenv("DDLM_HOME", str(small_disk))
    command = ("run", TINY, "--no-prefect", "--until", "train", "--set", "tracking.backend=none",
               "--set", "model.d_model=128")  # fmt: skip
    assert_refused(ddlm(*command), "the disk is full")
    assert list(small_disk.glob("artifacts/shards/*/manifest.json"))
    assert not list(small_disk.glob("artifacts/train/*"))
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    monkeypatch.setattr(sys, "argv", ["ddlm", *command])
    main_without_exit()
    assert list(small_disk.glob("artifacts/train/*/manifest.json"))


def main_without_exit() -> None:
    with pytest.raises(SystemExit) as exited:
        main()
    assert not exited.value.code


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["nothing"], "unknown command 'nothing'; wanted one of run, config, open, generate"),
        (["bench"], "bench: a command is missing; wanted one of tokenize, load"),
        (["artifacts"], "artifacts: a command is missing; wanted one of list, gc"),
        (["artifacts", "tidy"], "artifacts: unknown command 'tidy'; wanted one of list, gc"),
        (["generate"], "generate: MODEL is missing; `ddlm generate --help` has examples"),
        (["evaluate", "m"], "evaluate: --data is missing"),
        (["run"], "run: CONFIG is missing"),
        (["bench", "train", "--steps", "0"], "bench train: --steps: got '0', wanted at least 1"),
        (["ui", "m", "--port", "x"], "ui: --port: got 'x', wanted a whole number"),
        (["render", "m", "--nope"], "render: unknown option --nope"),
        (["--nope"], "unknown option --nope"),
        (["generate", "x" * 300], f"{'x' * 60}… (312 characters): no file has so long a name"),
        (["generate", "m", "--samples", "9" * 12], "generate: --samples: got '999999999999', wanted at most 100000"),
        (["generate", "m", "--length", "9" * 12], "generate: --length: got '999999999999', wanted at most 1000000"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_one_line(ddlm: Ddlm, command: list[str], said: str) -> None:
    code, out, err = ddlm(*command)
    assert (code, out) == (2, "")
    assert err.startswith(f"ddlm: {said}")
    assert len(err.splitlines()) == 1


def test_ddlm_alone_is_its_help(ddlm: Ddlm) -> None:
    code, out, err = ddlm()
    assert (code, err) == (0, "")
    assert "generate" in out


@pytest.mark.parametrize("command", ["generate", "infill", "chat", "evaluate", "render", "export"])
def test_help_names_the_sections_whose_keys_it_takes(ddlm: Ddlm, command: str) -> None:
    """Brackets are markup to whoever prints it."""
    code, out, _ = ddlm(command, "--help")
    assert code == 0
    assert "[sampling]" in out


def test_a_terminal_that_can_not_show_a_sign_gets_another(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "DDLM_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "ddlm", "config", TINY, "--set", "corpus.source=≤"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="latin-1", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'source = "?"' in done.stdout


def test_whoever_has_read_enough_ends_it_quietly(tmp_path: Path) -> None:
    command = f"{sys.executable} -m ddlm config {TINY} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("name")


WITHOUT_TORCH = """
import sys
from ddlm.cli import main

for command in {commands!r}:
    sys.argv = ["ddlm", *command]
    try:
        main()
    except SystemExit as end:
        assert end.code == 2, command
    assert "torch" not in sys.modules and "prefect" not in sys.modules, command
"""


def test_what_can_be_known_at_once_is_said_before_anything_heavy_is_loaded(tmp_path: Path, tiny_model: Path) -> None:
    model, none = str(tiny_model), str(tmp_path / "none")
    commands = [
        ["generate", "nosuchmodel"], ["chat", none], ["ui", "nosuchmodel", "--port", "0"], ["generate", str(tmp_path)],
        ["evaluate", model, "--data", none], ["evaluate", model, "--data", TINY, "--twin", "nosuchmodel"],
        ["export", model, "-o", str(tmp_path / "b"), "--data", none], ["render", model, "-o", "film.avi"],
        ["render", model, "-o", none + "/a.gif"], ["export", "nosuchmodel", "-o", str(tmp_path / "b")],
        ["run", TINY, "--set", f"corpus.source={none}.txt"], ["run", TINY, "--until", "trian"],
    ]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    script = [sys.executable, "-c", WITHOUT_TORCH.format(commands=commands)]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("ddlm: ")]
    assert len(lines) == len(commands), done.stderr


@pytest.mark.parametrize(
    "command",
    [["export", "-o", "/proc/x"], ["export", "--web", "-o", "/proc/a/site"], ["render", "-o", "/proc/a.gif"],
     ["evaluate", "--data", TINY, "-o", "/proc/x"]],
)  # fmt: skip
def test_an_output_that_can_not_be_written_is_known_beforehand(
    ddlm: Ddlm, tiny_model: Path, command: list[str]
) -> None:
    assert_refused(ddlm(command[0], str(tiny_model), *command[1:]), f"output {command[-1]}: can't be written", "yours")


def test_a_disk_that_is_not_ours_is_not_moved_by_our_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DDLM_HOME", str(tmp_path / "home"))
    own, other = (PermissionError(13, "no", str(tmp_path / name)) for name in ("home/artifacts/x", "bundle"))
    assert explain(own)[0].endswith("no permission; set DDLM_HOME to a folder that can be written")
    assert explain(other)[0].endswith("no permission; give a path in a folder of yours")


def test_a_tilde_that_the_shell_left_is_the_home_folder(
    ddlm: Ddlm, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").symlink_to(tiny_model)
    (tmp_path / "x.txt").write_text("One day.\n")
    code, out, err = ddlm("render", "~/m", "--output=~/a.png", "--steps", "2")
    assert code == 0, err
    assert (tmp_path / "a.png").is_file()
    assert out == f"{tmp_path / 'a.png'}: a picture of 2 steps\n"
    assert_refused(ddlm("evaluate", "~/m", "--data=~/none.txt"), f"--data {tmp_path / 'none.txt'}: no such file")
    assert not (tmp_path / "~").exists()
