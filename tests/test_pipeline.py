"""The whole pipeline on the tiny experiment, as its user runs it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddlm.experiment.stages import STAGES

ROOT = Path(__file__).parents[1]
TINY = ROOT / "configs" / "tiny.toml"
COMMAND = [sys.executable, "-c", "from ddlm.cli import main; main()"]
ALL_CACHED = dict.fromkeys(STAGES, "cached")


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "DDLM_HOME": str(home), "COLUMNS": "200"}
    return subprocess.Popen(
        [*COMMAND, "run", str(TINY), *arguments], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[dict[str, str], str]:
    """What became of each stage, and stderr."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return dict(re.findall(r"(\w+) (built|cached)", out)), err


def run(home: Path, *arguments: str) -> tuple[dict[str, str], str]:
    return finish(start(home, *arguments))


def manifests(home: Path, stage: str) -> list[str]:
    """Digests of a stage's artifacts."""
    return [json.loads(path.read_text())["digest"] for path in home.glob(f"artifacts/{stage}/*/manifest.json")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the tiny experiment has run with Prefect, once."""
    home = tmp_path_factory.mktemp("home")
    stages, said = run(home)
    assert stages == dict.fromkeys(STAGES, "built")
    (home / "said.log").write_text(said)
    return home


def test_a_run_speaks_in_one_format_and_says_of_each_stage_what_became_of_it(finished: Path) -> None:
    lines = (finished / "said.log").read_text().splitlines()
    assert {stage for line in lines for stage in STAGES if line.endswith(f" INFO {stage}: built")} == set(STAGES)
    timed = [line for line in lines if re.match(r"\d\d:\d\d", line)]
    assert all(re.match(r"\d\d:\d\d:\d\d [A-Z]+ ", line) for line in timed)
    assert not [line for line in lines if "Finished in state" in line or "flow run" in line.lower()]


def test_the_second_run_builds_nothing(finished: Path) -> None:
    stages, said = run(finished)
    assert stages == ALL_CACHED
    assert "nothing to build" in said
    assert "starting a Prefect server" not in said


def test_the_folder_holds_what_people_look_for(finished: Path) -> None:
    names = {path.name for path in (finished / "tiny").iterdir()}
    wanted = {"model", "bundle", "report.html", "scores.json", "samples.jsonl", "denoising.gif", "curve.png"}
    assert wanted <= names
    model = {path.name for path in (finished / "tiny" / "model").iterdir()}
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "experiment.toml"}
    assert wanted | {"scores.json", "README.md"} <= model


def test_another_theme_rebuilds_the_pictures_alone(finished: Path) -> None:
    stages, _ = run(finished, "--no-prefect", "--set", "rendering.theme=neon")
    assert stages == {**ALL_CACHED, "render": "built"}


def test_a_lost_shard_is_rebuilt_and_nothing_else(finished: Path) -> None:
    before = manifests(finished, "shards")
    next(finished.glob("artifacts/shards/*/train-00001.parquet")).unlink()
    stages, err = run(finished, "--no-prefect")
    assert "train-00001.parquet is missing" in err
    assert stages == {**ALL_CACHED, "shards": "built"}
    assert manifests(finished, "shards") == before


def test_a_flipped_byte_is_found_by_verification_named_and_rebuilt(finished: Path) -> None:
    shard = next(finished.glob("artifacts/shards/*/train-00000.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    stages, err = run(finished, "--no-prefect", "--verify")
    assert "train-00000.parquet has another sha256" in err
    assert stages == {**ALL_CACHED, "shards": "built"}


def test_two_runs_at_once_build_each_stage_once(tmp_path: Path) -> None:
    until = ("--until", "train", "--no-prefect", "--set", "tracking.backend=none")
    results = [finish(process)[0] for process in [start(tmp_path, *until), start(tmp_path, *until)]]
    for stage in ("corpus", "tokenizer", "shards", "train"):
        assert sorted(result[stage] for result in results) == ["built", "cached"]


def copy_before(stage: str, finished: Path, migrated: Path, home: Path) -> None:
    """A home that has what comes before the stage, and an MLflow database without runs."""
    home.mkdir(exist_ok=True)
    shutil.copy(migrated, home / "mlflow.db")
    for name in list(STAGES)[: list(STAGES).index(stage)]:
        shutil.copytree(finished / "artifacts" / name, home / "artifacts" / name)


@pytest.mark.parametrize("stage", ["corpus", "tokenizer", "shards", "train", "evaluate", "render", "export", "publish"])
def test_a_run_killed_in_a_stage_finishes_with_the_same_bytes(
    finished: Path, migrated: Path, tmp_path: Path, stage: str
) -> None:
    copy_before(stage, finished, migrated, tmp_path)
    process = start(tmp_path, "--no-prefect", "--until", stage)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob(f"artifacts/.tmp/{stage}-*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob(f"artifacts/{stage}/*/manifest.json")), "killed too late to prove anything"
    stages, _ = run(tmp_path, "--no-prefect", "--until", stage)
    assert stages.pop(stage) == "built"
    assert set(stages.values()) <= {"cached"}
    (made,) = manifests(tmp_path, stage)
    assert made in manifests(finished, stage)
