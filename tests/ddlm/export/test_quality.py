"""What variants lose, as the evaluation library measures it."""

import math

import numpy as np
import pytest
import torch

from ddlm.diffusion import SamplingConfig
from ddlm.evaluation.likelihood import bound
from ddlm.evaluation.subject import rows_from_texts
from ddlm.export import ExportConfig, gates, variants
from ddlm.export.onnx import export_logits, halved
from ddlm.export.quality import Ground, denoiser_of, equal_share, loses_too_much, measure, table
from ddlm.export.variants import network_of


@pytest.fixture(scope="module")
def ground(pipeline, stories):
    rows = rows_from_texts(pipeline.tokenizer, stories[:2], pipeline.seq_len)[0][:6]
    batches = gates.masked_batches(rows.tokens[:2], pipeline.tokenizer.mask_id, seed=0)
    sampling = SamplingConfig(num_sampling_steps=4)
    return Ground(pipeline.tokenizer, rows, batches, sampling, seed=0, masks_per_row=2, samples=2)


@pytest.fixture(scope="module")
def network(pipeline):
    """The model itself, as a graph would be run."""

    def run(ids):
        with torch.no_grad():
            return pipeline.model(torch.from_numpy(ids[None]).long())[0].numpy()

    return run


@pytest.fixture(scope="module")
def figures(network, ground):
    noise = np.random.default_rng(0).normal(size=(ground.seq_len, ground.tokenizer.vocab_size)).astype(np.float32)
    return measure(network, {"same": network, "noisy": lambda ids: network(ids) + 2 * noise}, ground)


def test_what_computes_the_same_loses_nothing(figures):
    same = figures["same"]
    assert (same["bits_per_byte_change"], same["mean_kl_nats"]) == (0, 0)
    assert (same["top1_agreement"], same["equal_tokens"]) == (1, 1)
    assert same["bits_per_byte_change_interval"] == [0, 0]
    assert same["bits_per_byte"] == figures["float32"]["bits_per_byte"]


def test_what_computes_something_else_is_told_by_every_number(figures):
    noisy = figures["noisy"]
    assert noisy["top1_agreement"] < 0.95
    assert noisy["mean_kl_nats"] > 0.1
    assert noisy["equal_tokens"] < 1
    low, high = noisy["bits_per_byte_change_interval"]
    assert low <= noisy["bits_per_byte_change"] <= high
    assert noisy["bits_per_byte_change"] == noisy["bits_per_byte"] - figures["float32"]["bits_per_byte"] != 0


def test_bits_per_byte_are_the_evaluation_librarys_bound(figures, pipeline, ground):
    wanted = {"mask_id": pipeline.tokenizer.mask_id, "masks_per_row": 2, "seed": 0}
    with torch.no_grad():
        own = bound(pipeline.model.at, ground.rows, **wanted)
    assert figures["float32"]["bits_per_byte"] == pytest.approx(own.bits_per_byte, rel=1e-5)


def test_texts_are_those_that_the_library_writes(figures, pipeline, ground):
    made = pipeline.generate(num_samples=2, sampling=ground.sampling, seed=0)
    from ddlm.evaluation.text import unigram_entropy_nats

    assert figures["float32"]["entropy_nats"] == unigram_entropy_nats([sample.text for sample in made.samples])


def test_a_denoiser_gives_logits_where_they_are_wanted(network, pipeline):
    ids = torch.randint(0, 300, (3, pipeline.seq_len))
    wanted = torch.rand(3, pipeline.seq_len) < 0.4
    with torch.no_grad():
        assert torch.allclose(denoiser_of(network)(ids, wanted), pipeline.model.at(ids, wanted), atol=1e-4)


@pytest.mark.parametrize(("change", "is_too_much"), [(0.009, False), (-1.0, False), (0.011, True), (math.nan, True)])
def test_a_loss_above_the_tolerance_is_too_much_and_so_is_no_number(change, is_too_much):
    assert loses_too_much({"bits_per_byte_change_interval": [-1.0, change]}, 0.01) == is_too_much


def test_texts_of_other_lengths_differ_where_one_has_ended():
    assert equal_share([[1, 2, 3]], [[1, 2]]) == pytest.approx(2 / 3)
    assert equal_share([], []) == 0


def test_the_table_has_a_row_for_each_and_no_column_that_is_empty(figures):
    lines = table(figures).splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["variant", "---", "float32", "same", "noisy"]
    assert "change" in lines[0]
    assert "judge" not in lines[0]


@pytest.fixture(scope="module")
def networks(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    for name, model in {"float32": pipeline.model, "float16": halved(pipeline.model)}.items():
        export_logits(model, pipeline.seq_len, folder / f"{name}.onnx", 18)
    return {path.stem: path for path in folder.iterdir()}


def make(networks, ground, folder, **settings):
    export = ExportConfig(quantised=("int8_dynamic", "int8_static", "int4"), **settings)
    return variants.make(networks, folder, ground.batches, ground, export)


def test_variants_that_lose_little_are_kept_and_int4_is_told_of_and_left_out(networks, ground, tmp_path):
    found = make(networks, ground, tmp_path, max_bits_per_byte_loss=1.0)
    assert list(found.figures) == ["float32", "float16", "int8_dynamic", "int8_static", "int4"]
    assert set(found.kept) == {"int8_dynamic", "int8_static"}
    assert list(found.left_out) == ["int4"]
    assert "experiment" in found.left_out["int4"]
    for name, path in found.kept.items():
        assert found.figures[name]["bytes"] == path.stat().st_size < networks["float32"].stat().st_size
    ids = ground.batches[0][0]
    assert network_of(found.kept["int8_static"])(ids).shape == (ground.seq_len, ground.tokenizer.vocab_size)


def test_a_variant_that_loses_more_than_the_tolerance_is_left_out_with_the_reason(networks, ground, tmp_path):
    found = make(networks, ground, tmp_path, max_bits_per_byte_loss=1e-12)
    losing = {
        name for name in found.kept | found.left_out if found.figures[name]["bits_per_byte_change_interval"][1] > 1e-12
    }
    assert losing
    assert losing <= set(found.left_out)
    for name in losing - {"int4"}:
        assert "export.max_bits_per_byte_loss = 1e-12" in found.left_out[name]
