"""The estimate is tied to the network's own formulas, and never passes for a measurement."""

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from ddlm.bench import roofline
from ddlm.bench.roofline import MODES, Assumptions, estimate, of_presets, step_ms, work_of
from ddlm.cli import app
from ddlm.model import PRESETS, ModelConfig
from ddlm.model.transformer import Denoiser

SIZES = {"vocab_size": 512, "seq_len": 64}
CONFIG = ModelConfig(d_model=64, num_layers=2, num_heads=2)


@pytest.fixture(scope="module")
def model():
    return Denoiser(CONFIG, **SIZES).eval()


def test_its_arithmetic_is_what_a_forward_pass_does(model):
    work = work_of(CONFIG, **SIZES, precision="float16")
    unfused = sdpa_kernel(SDPBackend.MATH)  # the counter passes over the fused one
    with unfused, FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, SIZES["seq_len"], dtype=torch.int64))
    assert work.linear_flops + work.other_flops == counter.get_total_flops()


def test_every_weight_is_read_once_but_of_the_embedding_only_the_rows_that_are_looked_up(model):
    unread = SIZES["vocab_size"] * CONFIG.d_model - SIZES["seq_len"] * CONFIG.d_model
    assert work_of(CONFIG, **SIZES, precision="float16").weight_bytes == 2 * (model.num_parameters() - unread)


def test_in_int8_the_blocks_weigh_half_and_head_and_attention_stay():
    half, whole = (work_of(CONFIG, **SIZES, precision=precision) for precision in ("int8", "float16"))
    both = 2 * (SIZES["vocab_size"] + SIZES["seq_len"]) * CONFIG.d_model
    assert half.weight_bytes - both == (whole.weight_bytes - both) / 2
    assert (half.linear_flops, half.other_flops) == (whole.linear_flops, whole.other_flops)
    head = 2 * SIZES["seq_len"] * SIZES["vocab_size"] * CONFIG.d_model
    assert whole.other_flops == head + CONFIG.num_layers * 4 * SIZES["seq_len"] ** 2 * CONFIG.d_model


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_step_takes_no_less_than_either_limit_and_the_launches_on_top(precision):
    work, mode, guess = work_of(CONFIG, **SIZES, precision=precision), MODES["15 W"], Assumptions()
    kind, harsh = (step_ms(work, mode, 2, precision, harsh, guess) for harsh in (False, True))
    for found in (kind, harsh):
        longest = max(found["compute_ms"], found["memory_ms"])
        assert found["step_ms"] == longest + found["overhead_ms"]
        assert found["compute_ms" if found["limit"] == "compute" else "memory_ms"] == longest
    assert kind["step_ms"] <= harsh["step_ms"]
    assert kind["memory_ms"] == pytest.approx((work.weight_bytes + work.activation_bytes) / (68e9 * 0.65) * 1000)
    assert kind["overhead_ms"] == pytest.approx((2 * 12 + 20) * 2.5e-3 + 0.1)


def test_the_modes_are_the_data_sheets_rates():
    assert MODES["15 W"].flops_per_s == pytest.approx(10e12, rel=0.03)
    assert MODES["Super"].flops_per_s == pytest.approx(17e12, rel=0.03)


def test_every_preset_stands_in_every_mode_beside_what_the_seed_claims():
    found = of_presets()
    assert found["seq_len"] == 256
    cells = {(row["model"], row["mode"], row["precision"]) for row in found["rows"]}
    assert cells == {(name, mode, kind) for name in PRESETS for mode in MODES for kind in ("float16", "int8")}
    claims = {row["model"]: row["seed_s3_claims_s"] for row in found["rows"]}
    assert (claims["xlarge"], claims["xxlarge"]) == (1.2, 2.0)


def test_more_steps_take_proportionally_longer():
    (row, *_) = estimate({"one": CONFIG}, **SIZES, steps=(10, 20))["rows"]
    assert row["seconds_per_text"]["20"] == pytest.approx([2 * side for side in row["seconds_per_text"]["10"]])


def test_it_says_that_it_is_an_estimate_and_what_it_assumes():
    runner = CliRunner()
    shown = runner.invoke(app, ["bench", "roofline"])
    assert shown.exit_code == 0
    assert shown.stdout.startswith(roofline.ESTIMATE)
    for name in ("tensor_share", "memory_share", "launch_us", "host_ms", "GPU 820 MHz", "seed S3 claims"):
        assert name in shown.stdout
    document = json.loads(runner.invoke(app, ["bench", "roofline", "--json", "--seq-len", "128"]).stdout)
    assert document["kind"] == roofline.ESTIMATE
    assert document["seq_len"] == 128
    assert document["assumptions"]["tensor_share"] == [0.45, 0.25]
