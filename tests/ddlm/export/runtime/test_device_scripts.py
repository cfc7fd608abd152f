"""What the bundle's shell scripts find out, build and record, on a Jetson made of a few files and programs."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ddlm.export import device

SCRIPTS = Path(device.__file__).parent
RELEASE = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025"
)
BOARD = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
TRTEXEC = """#!/bin/sh
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v${TRT_VERSION:-100300}] [b30] # trtexec $*"
[ "$1" != --help ] || exit 0
echo "$*" >>"$TRTEXEC_CALLS"
for option in "$@"; do
    case $option in
        --onnx=*) graph=${option#*=} ;;
        --saveEngine=*) engine=${option#*=} ;;
        --timingCacheFile=*) timing=${option#*=} ;;
    esac
done
if [ -n "$TRT_FAILS" ]; then
    printf half >"$engine"
    echo "[11/26/2026-10:00:00] [E] Error[10]: no implementation for node /blocks.0/MatMul"
    echo "&&&& FAILED TensorRT.trtexec"
    exit 1
fi
sleep "${TRT_SLEEP:-0}"
echo timed >>"$timing"
{ echo engine of; cat "$graph"; } >"$engine"
"""
DPKG_QUERY = """#!/bin/sh
case "$*" in *libnvinfer10*) printf 10.3.0.30-1+cuda12.5 ;; *) exit 1 ;; esac
"""


@pytest.fixture
def jetson(tmp_path):
    """A folder with the scripts and a graph, and the environment of a board."""
    return Jetson(tmp_path)


class Jetson:
    def __init__(self, folder):
        self.folder, self.root, self.programs = folder / "a bundle", folder / "root", folder / "programs"
        shutil.copytree(SCRIPTS, self.folder)
        self.graph = self.folder / "step_float16.onnx"
        self.graph.write_bytes(b"a graph")
        self.calls = folder / "calls"
        self.calls.touch()
        self.engines = folder / "engines of mine"
        for path, text in {
            "etc/nv_tegra_release": f"{RELEASE}\n# KERNEL_VARIANT: oot\n",
            "proc/device-tree/model": f"{BOARD}\0",
            "proc/meminfo": "MemTotal:        7802888 kB\nMemAvailable:    5123456 kB\nSwapTotal:       3901440 kB\n",
            "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
            "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600\n",
            "sys/class/thermal/thermal_zone0/temp": "45125\n",
            "sys/class/thermal/thermal_zone1/temp": "51000\n",
        }.items():
            self.write(path, text)
        self.program("trtexec", TRTEXEC)
        self.program("nvpmodel", "#!/bin/sh\necho 'NV Power Mode: 25W'\necho 1\n")
        self.program("nvidia-smi", "#!/bin/sh\nexit 9\n")
        self.program(
            "dpkg-query", '#!/bin/sh\ncase "$*" in *libnvinfer10*) printf 10.3.0.30-1+cuda12.5 ;; *) exit 1 ;; esac\n'
        )

    def write(self, path, text):
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def program(self, name, text):
        self.programs.mkdir(exist_ok=True)
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def environment(self, more):
        return {
            "PATH": f"{self.programs}:{os.environ['PATH']}", "SYSROOT": str(self.root), "HOME": str(self.root),
            "DDLM_ENGINES": str(self.engines), "TRTEXEC_CALLS": str(self.calls), "TRT_FAILS": "",
            "PYTHONDONTWRITEBYTECODE": "1", **more,
        }  # fmt: skip

    def start(self, script, *words, **more):
        command = ["sh", str(self.folder / script), *map(str, words)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=self.environment(more), cwd="/", **streams)

    def run(self, script, *words, **more):
        started = self.start(script, *words, **more)
        out, err = started.communicate(timeout=60)
        return subprocess.CompletedProcess(script, started.returncode, out, err)

    def built(self, *words, **more):
        done = self.run("build_engine.sh", *words, **more)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    @property
    def builds(self):
        return self.calls.read_text().count("--saveEngine")


def test_the_facts_of_a_board(jetson):
    lines = dict(line.partition("=")[::2] for line in jetson.run("facts.sh").stdout.splitlines())
    assert lines["machine"] == lines["gpu"] == BOARD
    assert (lines["l4t"], lines["jetpack"], lines["tensorrt"]) == ("36.4.3", "6.2", "10.3.0")
    assert lines["tensorrt_package"] == "10.3.0.30-1+cuda12.5"
    assert (lines["power_mode"], lines["gpu_hz"], lines["gpu_max_hz"]) == ("25W", "306000000", "1020000000")
    assert (lines["memory_total_kib"], lines["memory_available_kib"]) == ("7802888", "5123456")
    assert (lines["cpu_khz"], lines["hottest_millicelsius"], lines["memory_clock_hz"]) == ("729600", "51000", "")
    assert lines["trtexec"] == str(jetson.programs / "trtexec")


@pytest.mark.parametrize(("revision", "version", "jetpack", "tensorrt"), [
    ("# R39 (release), REVISION: 2.0, GCID: 1", "101602", "7.2", "10.16.2"),
    ("# R36 (release), REVISION: 5.0, GCID: 1", "100300", "6.2", "10.3.0"),
    ("# R36 (release), REVISION: 4.0, GCID: 1", "100300", "6.1", "10.3.0"),
    ("# R38 (release), REVISION: 1.0, GCID: 1", "101302", "L4T 38.1.0", "10.13.2"),
])  # fmt: skip
def test_releases_are_told_apart(jetson, revision, version, jetpack, tensorrt):
    jetson.write("etc/nv_tegra_release", revision + "\n")
    lines = jetson.run("facts.sh", TRT_VERSION=version).stdout.splitlines()
    assert f"jetpack={jetpack}" in lines
    assert f"tensorrt={tensorrt}" in lines


def test_where_nothing_can_be_told_the_facts_are_empty(jetson):
    for name in ("trtexec", "nvpmodel", "dpkg-query"):
        jetson.program(name, "#!/bin/sh\nexit 1\n")
    done = jetson.run("facts.sh", SYSROOT=str(jetson.root / "nowhere"))
    assert done.returncode == 0
    assert done.stderr == ""
    assert {"jetpack=", "tensorrt=", "power_mode=", "gpu_hz=", "memory_total_kib="} <= set(done.stdout.splitlines())


def test_an_engine_is_built_once_and_its_path_printed(jetson):
    engine = jetson.built()
    assert engine.read_bytes() == b"engine of\na graph"
    assert engine.parent == jetson.engines
    assert jetson.built() == jetson.built(jetson.graph) == engine
    assert jetson.builds == 1
    assert {path.suffix for path in jetson.engines.iterdir()} == {".plan", ".sha256", ".cache", ""}
    assert jetson.run("build_engine.sh", "--path").stdout.strip() == str(engine)


@pytest.mark.parametrize("change", [
    {"TRT_VERSION": "101602"}, {"WORKSPACE_MIB": "512"}, {"revision": "# R36 (release), REVISION: 5.0, GCID: 1"},
    {"board": "another"}, {"graph": b"another"},
], ids=["tensorrt", "flags", "jetpack", "gpu", "graph"])  # fmt: skip
def test_another_machine_graph_or_flag_takes_another_engine(jetson, change):
    first = jetson.built()
    jetson.graph.write_bytes(change.pop("graph", b"a graph"))
    jetson.write("etc/nv_tegra_release", change.pop("revision", RELEASE) + "\n")
    jetson.write("proc/device-tree/model", change.pop("board", BOARD))
    assert jetson.built(**change) != first
    assert jetson.builds == 2
    assert first.exists()


@pytest.mark.parametrize(("version", "typed"), [("100300", True), ("101602", True), ("110401", False)])
def test_the_lines_for_each_tensorrt(jetson, version, typed):
    said = jetson.run("build_engine.sh", "--dry-run", TRT_VERSION=version).stdout
    assert ("'--stronglyTyped'" in said) == typed
    assert f"'--onnx={jetson.graph}'" in said
    assert "'--memPoolSize=workspace:1024'" in said
    assert f"'--saveEngine={jetson.engines}/step_float16-" in said
    assert not jetson.engines.exists()
    assert jetson.calls.read_text() == ""


def test_a_failed_build_is_one_line_and_leaves_no_engine(jetson):
    done = jetson.run("build_engine.sh", TRT_FAILS="yes")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no implementation for node /blocks.0/MatMul" in done.stderr.splitlines()[-1]
    assert "step_float16.log" in done.stderr.splitlines()[-1]
    assert {path.name for path in jetson.engines.iterdir()} == {"lock", "step_float16.log"}
    assert jetson.built().exists()


def test_a_damaged_engine_is_built_again(jetson):
    engine = jetson.built()
    engine.write_bytes(b"engine of")
    assert jetson.built().read_bytes() == b"engine of\na graph"
    assert jetson.builds == 2


def test_two_at_once_build_one_engine(jetson):
    pair = [jetson.start("build_engine.sh", TRT_SLEEP="0.5") for _ in range(2)]
    said = {started.communicate(timeout=60)[0] for started in pair}
    assert len(said) == 1
    assert jetson.builds == 1


def test_a_killed_build_leaves_nothing_that_looks_finished(jetson):
    started = jetson.start("build_engine.sh", TRT_SLEEP="0.5")
    while not jetson.builds:
        assert started.poll() is None
    started.terminate()
    assert started.wait(30) == 143
    started.communicate()
    assert {path.name for path in jetson.engines.iterdir()} == {"lock"}
    assert jetson.built().exists()


@pytest.mark.parametrize(("words", "more", "line"), [
    (["nothing.onnx"], {}, "nothing.onnx: no such graph"),
    (["--fast"], {}, "unknown option --fast"),
    (["a", "b"], {}, "got 2 graphs, wanted one at a time"),
    ([], {"WORKSPACE_MIB": "1G"}, "WORKSPACE_MIB=1G: wanted a number of MiB"),
    ([], {"TRT_VERSION": "80602"}, "TensorRT 8.6.2; wanted 10.3 or later"),
    ([], {"DDLM_ENGINES": "/proc/engines"}, "/proc/engines can't be made; set DDLM_ENGINES"),
])  # fmt: skip
def test_what_can_be_mended_is_one_line(jetson, words, more, line):
    done = jetson.run("build_engine.sh", *words, **more)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("build_engine.sh: ")
    assert done.stderr.count("\n") == 1
    assert line in done.stderr
    assert done.stdout == ""


def test_without_trtexec_it_says_what_to_install(jetson):
    (jetson.programs / "trtexec").unlink()
    assert "no trtexec; on a Jetson run sudo apt install nvidia-jetpack" in jetson.run("build_engine.sh").stderr


def test_the_bench_records_the_machine_beside_the_numbers(bundle, jetson, tmp_path):
    folder = Path(shutil.copytree(bundle, tmp_path / "its copy"))
    jetson.folder = folder
    for path, text in {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "2000"}.items():
        jetson.write(f"sys/class/hwmon/hwmon3/{path}", text + "\n")
    report = tmp_path / "report.json"
    done = jetson.run("bench.sh", "-o", report, "--samples=3", "--steps=4", "--length=9", PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert "the GPU runs at 306000000 of 1020000000 Hz; run sudo jetson_clocks" in done.stderr
    made = json.loads(report.read_text())
    assert (made["machine"]["power_mode"], made["machine"]["jetpack"]) == ("25W", "6.2")
    assert (made["texts"], made["calls"], made["precision"]) == (3, 12, "float32")
    assert 0 < made["text_ms"]["p50"] <= made["text_ms"]["p90"] <= made["text_ms"]["p99"]
    assert made["watts"] == pytest.approx(10, rel=0.5)
    assert made["joules_per_token"] == pytest.approx(made["joules"] / made["tokens"])
    assert made["least_available_kib"] == 5123456
    assert made["peak_memory_kib"] > 10_000
    assert made["versions"]["bundle"] == json.loads((folder / "manifest.json").read_text())["checksum"]


def test_a_bench_that_fails_leaves_no_report(bundle, jetson, tmp_path):
    jetson.folder = bundle
    done = jetson.run("bench.sh", "-o", tmp_path / "report.json", "--steps=0", PYTHON=sys.executable)
    assert done.returncode == 2
    assert "argument --steps: got 0, wanted at least 1; see bench.sh --help" in done.stderr
    assert not list(tmp_path.glob("report*"))


def test_the_digest_of_an_engine_lies_beside_it(jetson):
    engine = jetson.built()
    assert Path(f"{engine}.sha256").read_text().strip() == hashlib.sha256(engine.read_bytes()).hexdigest()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    subprocess.run(["shellcheck", *sorted(SCRIPTS.glob("*.sh"))], check=True)
