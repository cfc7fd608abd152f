"""A judge's numbers against the model's own loss, and texts that are too long, empty, or batched."""

import json
import math
import socket
import sys

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch
from huggingface_hub import constants

from ddlm.config import UserError
from ddlm.evaluation.judge import Judge, compare

TEXTS = ["The fox ran to the park.", "Once upon a time", "", "a big dog saw the red ball", " \n"]
LONG = "Once upon a time there was a flurb of zebras, qux and wyverns. " * 3


@pytest.fixture(scope="module")
def judge(judge_folder):
    return Judge.load(judge_folder)


def tokens_of(judge, text):
    return judge.tokenizer(text, add_special_tokens=False)["input_ids"]


def nats_by_hand(judge, ids):
    """Sum of the negative log-likelihood of all tokens but the first."""
    with torch.no_grad():
        log_probs = judge.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -sum(float(log_probs[place, token]) for place, token in enumerate(ids[1:]))


def test_the_nats_are_those_of_every_token_behind_the_begin_token(judge):
    judged = judge.score([TEXTS[0]])
    ids = tokens_of(judge, TEXTS[0])
    nats = nats_by_hand(judge, [judge.tokenizer.bos_token_id, *ids])
    assert judged.tokens == len(ids)
    assert judged.text_nats == (pytest.approx(nats, rel=1e-5),)
    assert judged.nll_nats == pytest.approx(nats / len(ids), rel=1e-5)
    assert judged.perplexity == pytest.approx(math.exp(nats / len(ids)), rel=1e-5)
    assert judged.bits_per_byte == pytest.approx(nats / math.log(2) / len(TEXTS[0].encode()), rel=1e-5)


def test_without_a_begin_token_the_first_token_is_given_and_not_scored(judge_folder_without_begin):
    judge = Judge.load(judge_folder_without_begin)
    judged = judge.score([TEXTS[0], "a"])
    ids = tokens_of(judge, TEXTS[0])
    assert judged.tokens == len(ids) - 1
    assert judged.empty_texts == 1
    assert judged.text_nats == (pytest.approx(nats_by_hand(judge, ids), rel=1e-5), 0)
    given = len(judge.tokenizer.decode(ids[:1]))
    scored_bytes = len(TEXTS[0]) - given
    assert judged.bits_per_byte == pytest.approx(judged.text_nats[0] / math.log(2) / scored_bytes)


def test_batches_give_the_numbers_of_texts_alone(judge):
    alone = [judge.score([text]).text_nats[0] for text in TEXTS]
    together = judge.score(TEXTS, batch_size=3)
    assert len({len(tokens_of(judge, text)) for text in TEXTS}) > 3
    assert together.text_nats == pytest.approx(alone, rel=1e-5)
    features = np.concatenate([judge.features([text]) for text in TEXTS])
    np.testing.assert_allclose(judge.features(TEXTS, batch_size=3), features, atol=1e-5)


def test_means_are_over_all_tokens_and_empty_texts_are_counted_apart(judge):
    judged, full = judge.score(TEXTS), judge.score([text for text in TEXTS if text.strip()])
    assert (judged.empty_texts, full.empty_texts) == (2, 0)
    assert [nats == 0 for nats in judged.text_nats] == [not text.strip() for text in TEXTS]
    for name in ("perplexity", "bits_per_byte", "entropy_nats", "tokens"):
        assert getattr(judged, name) == pytest.approx(getattr(full, name))
    assert judged.nll_nats == pytest.approx(sum(judged.text_nats) / judged.tokens)


@pytest.mark.parametrize("texts", [[], ["", " "]])
def test_nothing_to_score_gives_no_numbers(judge, texts):
    judged = judge.score(texts)
    assert (judged.perplexity, judged.nll_nats, judged.bits_per_byte, judged.entropy_nats) == (None,) * 4
    assert (judged.tokens, judged.empty_texts) == (0, len(texts))
    assert judge.features(texts).shape == (len(texts), 16)


def test_a_long_text_is_cut_at_the_context_and_its_bytes_with_it(judge):
    judged = judge.score([LONG, TEXTS[0]])
    kept = tokens_of(judge, LONG)[: judge.context_tokens - 1]
    assert judged.cut_texts == 1
    nats = nats_by_hand(judge, [judge.tokenizer.bos_token_id, *kept])
    assert judged.text_nats[0] == pytest.approx(nats, rel=1e-5)
    alone = judge.score([LONG])
    assert alone.tokens == judge.context_tokens - 1
    kept_bytes = len(judge.tokenizer.decode(kept).encode())
    assert kept_bytes < len(LONG.encode())
    assert alone.bits_per_byte == pytest.approx(nats / math.log(2) / kept_bytes, rel=1e-5)


def test_entropy_is_that_of_each_text_by_its_own_tokens(judge):
    """Digits are in no merge: a token each."""
    assert judge.score(["7777", ""]).entropy_nats == 0
    half = judge.score(["7171", "77777777"])
    assert half.entropy_nats == pytest.approx(math.log(2) / 2)


def test_features_are_the_mean_of_the_last_hidden_states_of_the_scored_tokens(judge):
    ids = [judge.tokenizer.bos_token_id, *tokens_of(judge, TEXTS[0])]
    with torch.no_grad():
        states = judge.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
    features = judge.features([TEXTS[0], ""])
    np.testing.assert_allclose(features[0], states[0, 1:].mean(0), atol=1e-5)
    assert not features[1].any()


def test_a_comparison_has_both_sides_and_goes_into_json(judge):
    compared = json.loads(json.dumps(compare(judge, TEXTS, [LONG])))
    assert set(compared) == {"judge", "samples", "stories"}
    assert compared["judge"] == "tiny-judge"
    assert compared["samples"]["perplexity"] == pytest.approx(judge.score(TEXTS).perplexity)
    assert compared["stories"]["cut_texts"] == 1
    assert "text_nats" not in compared["samples"]


def test_a_folder_is_loaded_without_network_and_telemetry(judge_folder, monkeypatch):
    def refuse(*address):
        raise AssertionError(f"asked the network for {address}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    Judge.load(judge_folder)
    assert constants.HF_HUB_DISABLE_TELEMETRY


def test_a_folder_without_a_model_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"^judge .*no causal language model.*give a folder or hub id.*$") as caught:
        Judge.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_model_is_one_clear_line(judge_folder, tmp_path):
    for path in judge_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(UserError, match="no causal language model"):
        Judge.load(tmp_path)


def test_a_missing_transformers_says_what_to_install(judge_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"run .*python -m pip install .*\[judge\]"):
        Judge.load(judge_folder)
