"""`ddlm bench device` on a real bundle. It stands here, where bundles are made."""

import json
from itertools import product

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner

from ddlm.bench import device, trade
from ddlm.bench.device import Plan, measure
from ddlm.cli import app
from ddlm.config import UserError
from ddlm.evaluation.few_steps import bound_in_steps
from ddlm.evaluation.subject import rows_from_texts


@pytest.fixture(scope="module")
def data(stories, tmp_path_factory):
    path = tmp_path_factory.mktemp("stories") / "stories.parquet"
    parquet.write_table(pa.table({"text": stories[:3]}), path)
    return path


@pytest.fixture(scope="module")
def plan(data):
    return Plan(steps=(2, 4), unmasking=("confidence", "random"), texts=2, threads=1, data=data, rows=2)


@pytest.fixture(scope="module")
def found(bundle, plan):
    return measure(bundle, plan)


def test_every_graph_policy_and_number_of_steps_has_a_row(found, bundle):
    graphs = set(json.loads((bundle / "manifest.json").read_text())["graphs"])
    cells = {(row["graph"], row["unmasking"], row["num_sampling_steps"]) for row in found["rows"]}
    assert cells == set(product(graphs, ("confidence", "random"), (2, 4)))
    for row in found["rows"]:
        assert 0 < row["ms_per_step"] <= row["ms_per_step_p90"]
        assert row["seconds_per_text"] < 5
        assert row["tokens_per_s"] > 0
        assert row["entropy_nats"] > 0


def test_memory_and_start_up_are_measured_of_a_process_without_torch(found):
    for variant in found["variants"]:
        assert 2e7 < variant["peak_resident_bytes"] < 1.6e8, "torch alone takes more"
        assert 0 < variant["arena_bytes"] < variant["peak_resident_bytes"]
        assert 0 < variant["start_s"] < 20
        assert variant["usable_share"] == variant["peak_resident_bytes"] / 5.2e9


def test_it_says_what_it_ran_on(found):
    assert found["hardware"]["threads"] == 1
    assert found["hardware"]["is_jetson"] is False
    assert found["hardware"]["machine"]
    assert found["jetson"]["memory_bytes"] == 8e9


def test_bits_per_byte_are_the_bound_for_so_many_steps(found, pipeline, stories, plan):
    rows, story = rows_from_texts(pipeline.tokenizer, stories[:2], pipeline.seq_len)
    own = bound_in_steps(
        pipeline.model.at, rows[:2], num_sampling_steps=4, mask_id=pipeline.tokenizer.mask_id,
        masks_per_row=device.MASKS, seed=plan.seed, story=story[:2],
    )  # fmt: skip
    exact = [row for row in found["rows"] if row["num_sampling_steps"] == 4 and row["precision"] == "float32"]
    for row in exact:
        assert row["bits_per_byte"] == pytest.approx(own.bits_per_byte, rel=1e-4)


def test_the_picture_and_the_tables_show_it(found, tmp_path):
    trade.draw(found, tmp_path / "trade.png")
    with Image.open(tmp_path / "trade.png") as picture:
        assert picture.width > 900
    shown = trade.table(found)
    assert "model.onnx" in shown
    assert "peak_resident_bytes" in shown
    assert found["hardware"]["machine"] in shown


def test_the_command_writes_one_document_and_a_folder(bundle, tmp_path):
    ask = ["bench", "device", str(bundle), "--steps", "2", "--kind", "logits", "--texts", "1", "--threads", "1"]
    done = CliRunner().invoke(app, [*ask, "--json", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {row["graph"] for row in found["rows"]} == {"model.onnx"}
    assert json.loads((tmp_path / "out" / "device.json").read_text()) == found
    assert (tmp_path / "out" / "trade.png").is_file()


def test_wrong_requests_get_one_line(bundle, tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json is missing or damaged"):
        measure(tmp_path, Plan())
    with pytest.raises(UserError, match="no such graph; it has logits in float32"):
        measure(bundle, Plan(precisions=("int2",)))
    with pytest.raises(UserError, match="unknown unmasking 'best'; wanted one of random"):
        measure(bundle, Plan(unmasking=("best",)))
    with pytest.raises(UserError, match=r"step_float32\.onnx: .*entropy"):
        measure(bundle, Plan(unmasking=("entropy",), kinds=("step",), precisions=("float32",), texts=1))
