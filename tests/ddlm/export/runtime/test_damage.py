"""500 damaged bundles: each ends in one clear line, and none in a text."""

import json
import os
import random
import shutil
import subprocess
import sys

import pytest

from ddlm.export.runtime import generate, integrity
from ddlm.export.runtime.options import InputError

CASES = 500
PASSIVE = {"README.md", "ddlm-serve.service", "requirements-jp62.txt", "requirements-jp72.txt"}
"""Files that no text depends on."""


def flip(folder, name, dice):
    data = bytearray((folder / name).read_bytes())
    for _ in range(dice.choice([1, 1, 1, 30])):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    (folder / name).write_bytes(data)


def truncate(folder, name, dice):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: dice.choice([0, 1, len(data) - 1, dice.randrange(len(data))])])


def lengthen(folder, name, dice):
    with (folder / name).open("ab") as file:
        file.write(dice.choice([b"\n", b"\0" * 4096, b"x"]))


def lose(folder, name, dice):
    (folder / name).unlink()


def swap(folder, name, dice):
    other = dice.choice([path.name for path in folder.iterdir() if path.name != name and path.name not in PASSIVE])
    mine, theirs = (folder / name).read_bytes(), (folder / other).read_bytes()
    (folder / name).write_bytes(theirs)
    (folder / other).write_bytes(mine)


def zero(folder, name, dice):
    """What a disk leaves that lost power: the size is right and nothing else."""
    (folder / name).write_bytes(bytes((folder / name).stat().st_size))


def make_folder(folder, name, dice):
    (folder / name).unlink()
    (folder / name).mkdir()


def version(folder, name, dice):
    edit(folder, {"format_version": dice.choice([0, 1, 2, 99, None, "3", [], -1, 3.5, {}])})


def retell(folder, name, dice):
    """A manifest that says something else, with a checksum that is of the old one."""
    manifest = json.loads((folder / integrity.MANIFEST).read_text())
    key = dice.choice([key for key in manifest if key != "format_version"])
    edit(folder, {key: dice.choice([0, None, "", [], {}, [[]], {"model.onnx": {}}])})


def forget(folder, name, dice):
    manifest = json.loads((folder / integrity.MANIFEST).read_text())
    del manifest[dice.choice(list(manifest))]
    (folder / integrity.MANIFEST).write_text(json.dumps(manifest))


def edit(folder, changes):
    manifest = json.loads((folder / integrity.MANIFEST).read_text())
    (folder / integrity.MANIFEST).write_text(json.dumps({**manifest, **changes}))


DAMAGES = (flip, truncate, lengthen, lose, swap, zero, make_folder, version, retell, forget)


def test_500_damaged_bundles_end_in_one_line_and_never_in_a_text(bundle, tmp_path, capsys, monkeypatch):
    whole = {path.name: path.read_bytes() for path in bundle.iterdir()}
    (graph,) = [name for name, about in graphs_of(bundle).items() if is_run(about)]
    others = set(graphs_of(bundle)) - {graph}
    names = sorted(set(whole) - PASSIVE - others)
    dice, folder = random.Random(7), tmp_path / "a bundle"
    folder.mkdir()
    monkeypatch.setattr(generate, "__file__", str(folder / "generate.py"))
    restore(folder, whole)
    assert generate.main(["One day", "--steps=1", "--threads=1"]) == 0
    right, harmless = capsys.readouterr().out, []
    for case in range(CASES):
        restore(folder, whole)
        damage, name = DAMAGES[case % len(DAMAGES)], dice.choice(names)
        damage(folder, name, dice)
        code = generate.main(["One day", "--steps=1", "--threads=1"])
        out, err = capsys.readouterr()
        told = (case, damage.__name__, name, err)
        if says_the_same(folder, whole):
            harmless.append(told)
            assert (code, out, err) == (0, right, ""), told
            continue
        assert (code, out) == (2, ""), told
        assert err.count("\n") == 1, told
        assert err.startswith("generate.py: "), told
        assert str(folder) in err, told
    assert len(harmless) < CASES / 50


def says_the_same(folder, whole):
    """Whether nothing differs but the white space of the manifest."""
    for name, data in whole.items():
        path = folder / name
        if not path.is_file():
            return False
        if path.read_bytes() != data and not (name == integrity.MANIFEST and is_equal_json(path.read_bytes(), data)):
            return False
    return True


def is_equal_json(one, other):
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def graphs_of(folder):
    return json.loads((folder / integrity.MANIFEST).read_text())["graphs"]


def is_run(about):
    return (about["kind"], about["precision"]) == ("logits", "float32")


def restore(folder, whole):
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in whole:
            path.unlink()
    for name, data in whole.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != len(data) or path.read_bytes() != data:
            path.write_bytes(data)


@pytest.mark.parametrize("damage", [lose, truncate], ids=["missing", "shorter"])
def test_a_graph_that_is_not_run_must_be_there_and_as_long_as_it_was(bundle, tmp_path, capsys, monkeypatch, damage):
    folder = shutil.copytree(bundle, tmp_path / "copy")
    monkeypatch.setattr(generate, "__file__", str(folder / "generate.py"))
    damage(folder, "step_float16.onnx", random.Random(0))
    assert generate.main(["--steps=1"]) == 2
    assert "step_float16.onnx" in capsys.readouterr().err


def test_a_graph_of_the_right_size_with_other_bytes_is_found_when_it_is_to_run(bundle, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(bundle, tmp_path / "copy")
    monkeypatch.setattr(generate, "__file__", str(folder / "generate.py"))
    zero(folder, "step_float32.onnx", None)
    assert generate.main(["--steps=1", "--graph=step"]) == 2
    assert "step_float32.onnx has another sha256 than manifest.json says" in capsys.readouterr().err
    assert generate.main(["--steps=1"]) == 0


@pytest.mark.parametrize("name", ["writing.py", "tokens.py", "step.py"])
def test_a_program_file_that_is_damaged_never_runs(bundle, tmp_path, name):
    """In a process of its own: there the damaged file itself would be what is imported."""
    folder = shutil.copytree(bundle, tmp_path / "copy")
    (folder / name).write_text("raise SystemExit('it ran')\n" + (folder / name).read_text())
    command = [sys.executable, folder / "generate.py", "One day", "--steps=1"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"{folder / name} has " in done.stderr


def broken_import(folder):
    """One bit of options.py, which still is Python."""
    text = (folder / "options.py").read_text()
    assert "metavar" in text
    (folder / "options.py").write_text(text.replace("metavar", "metavaR", 1))


def cut_options(folder):
    text = (folder / "options.py").read_text()
    (folder / "options.py").write_text(text[: text.index("    return", len(text) // 2)])


def cut_integrity(folder):
    text = (folder / "integrity.py").read_text()
    (folder / "integrity.py").write_text(text[: text.index("def check_size")])


def deep(folder):
    (folder / integrity.MANIFEST).write_text("[" * 3_000_000)


@pytest.mark.parametrize("damage", [broken_import, cut_options, cut_integrity, deep])
def test_damage_to_what_checks_the_rest_is_one_line_too(bundle, tmp_path, damage):
    folder = shutil.copytree(bundle, tmp_path / "copy")
    damage(folder)
    command = [sys.executable, folder / "generate.py", "One day", "--steps=1"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"generate.py: {folder}")
    assert done.stderr.endswith("copy the bundle again\n")


@pytest.mark.parametrize("text", ["[]", "null", "3", '"manifest"'])
def test_a_manifest_that_is_no_object_is_damage(tmp_path, text):
    (tmp_path / integrity.MANIFEST).write_text(text)
    with pytest.raises(InputError, match="is missing or damaged"):
        integrity.read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/b", ".."])
def test_a_manifest_names_nothing_outside_its_folder(bundle, tmp_path, name):
    manifest = json.loads((bundle / integrity.MANIFEST).read_text())
    manifest["files"][name] = manifest["files"]["generate.py"]
    manifest["checksum"] = integrity.checksum_of(manifest)
    (tmp_path / integrity.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="which lies outside the bundle"):
        integrity.read_manifest(tmp_path)


def test_whoever_has_read_enough_ends_it_quietly(bundle):
    command = f"{sys.executable} '{bundle / 'generate.py'}' --steps=1 --samples=40 | head -c 1"
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert done.stderr == ""
