"""`ddlm export` as its user calls it."""

import pytest
from typer.testing import CliRunner

from ddlm.cli import app
from ddlm.cli.models import show_made
from ddlm.export.gates import PASSED, SKIPPED, Gate
from ddlm.export.graphs import Made


@pytest.fixture
def model(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_the_command_takes_settings_and_shows_what_each_graph_went_through(model, tmp_path):
    small = ["--set", "export.precisions=[]", "--set", "export.check_batches=1", "--set", "sampling.top_k=9"]
    done = CliRunner().invoke(app, ["export", model, "-o", str(tmp_path / "bundle"), *small])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "bundle" / "manifest.json").read_text().count('"top_k": 9') == 1
    assert "model.onnx" in done.output
    assert "int8_static is left out: there is no text to measure it on" in done.output
    assert done.output.splitlines()[-1] == str(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("export.precision=1", "export.precision"),
        ("export.precisions=[float8]", "export.precisions"),
        ("training.steps=3", "training"),
        ("export.candidates=300", "less than or equal to 256"),
    ],
)
def test_a_setting_that_there_is_not_is_refused_in_a_line(model, tmp_path, setting, told):
    done = CliRunner().invoke(app, ["export", model, "-o", str(tmp_path / "bundle"), "--set", setting])
    assert told in str(done.exception)
    assert not (tmp_path / "bundle").exists()


def test_a_skipped_gate_is_never_silent(capsys):
    gates = [Gate("opset", "a.onnx", PASSED, "18"), Gate("TensorRT-RTX", "a.onnx", SKIPPED, 'pip install "ddlm[x]"')]
    show_made(Made(gates=gates, left_out={"int4": "an experiment"}))
    shown = capsys.readouterr().out
    assert "SKIPPED" in shown
    assert "ddlm[x]" in shown
    assert "int4 is left out: an experiment" in shown
