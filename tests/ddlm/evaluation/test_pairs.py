"""Pairs against closed forms, and how much pairing the masks saves."""

import json
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pytest
import torch

from ddlm.config import UserError
from ddlm.diffusion.view import everywhere
from ddlm.evaluation.pairs import Accuracy, Pair, bound_nats, paired_masks, read_pairs, score_pairs, wilson_interval
from ddlm.generation import DiffusionPipeline
from ddlm.model.folder import ModelFolder
from ddlm.model.transformer import Denoiser

VOCABULARY, SEQ_LEN = 6, 24
GOOD, SUBSTITUTED = [1, 2, 3, 4, 5, 1, 3, 2], [1, 2, 3, 5, 5, 1, 3, 2]
LONGER, SHORTER = [1, 2, 3, 4, 4, 2, 5, 1, 3, 2], [1, 2, 3, 5, 1, 3, 2]


def rng(seed=0):
    return np.random.default_rng(seed)


def line(good="The dogs run.", bad="The dogs runs.", **others):
    return json.dumps({"sentence_good": good, "sentence_bad": bad, **others}, ensure_ascii=False)


class Neighbours:
    """Random logits for each pair of neighbours, masks among them: like language, it looks at what is near."""

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.logits = 2 * torch.randn(VOCABULARY + 1, VOCABULARY + 1, VOCABULARY, generator=generator)

    def __call__(self, ids):
        return self.logits[ids.roll(1, 1), ids.roll(-1, 1)]


def rows_of(*sentences):
    return torch.tensor([[*ids, *[0] * (SEQ_LEN - len(ids))] for ids in sentences])


def margins(seed, masks_of, bad):
    """The difference of both bounds, again and again with other masks."""
    denoiser, rows = everywhere(Neighbours(seed)), rows_of(GOOD, bad)
    nats = [bound_nats(denoiser, rows, torch.from_numpy(masks_of(draw)), VOCABULARY) for draw in range(100)]
    return [float(of_bad - of_good) for of_good, of_bad in nats]


@pytest.mark.parametrize("bad", [SUBSTITUTED, LONGER, SHORTER])
def test_paired_masks_keep_the_difference_s_mean_and_leave_less_than_half_of_its_variance(bad):
    def pair(seed):
        return paired_masks(rng(seed), GOOD, bad, masks=4, seq_len=SEQ_LEN)

    def strangers(draw):
        return np.stack([pair((draw, 1))[0], pair((draw, 2))[1]])

    paired, alone = (np.array([margins(seed, masks_of, bad) for seed in range(3)]) for masks_of in (pair, strangers))
    assert 2 * paired.var(axis=1).mean() < alone.var(axis=1).mean()
    error = np.sqrt(alone.var(axis=1) / alone.shape[1])
    assert (np.abs(paired.mean(axis=1) - alone.mean(axis=1)) < 4 * error).all()


def test_tokens_that_both_sentences_have_are_hidden_together():
    good, bad = paired_masks(rng(), [1, 2, 3, 4, 5], [1, 2, 9, 9, 9, 4, 5], masks=50, seq_len=10)
    assert np.array_equal(good[:, :3], bad[:, :3])
    assert np.array_equal(good[:, 3:8], bad[:, 5:])
    assert np.array_equal(good[:, 8:], bad[:, 3:5])
    again = paired_masks(rng(), [1, 2, 9, 9, 9, 4, 5], [1, 2, 3, 4, 5], masks=50, seq_len=10)
    assert np.array_equal(again, [bad, good])


def test_each_sentence_s_masks_are_uniform_over_sizes_and_places():
    masks = paired_masks(rng(), [1, 2], [2, 1, 1], masks=24_000, seq_len=4)
    for side in masks:
        sizes = np.bincount(side.sum(1))[1:]
        assert sizes == pytest.approx(np.full(4, 6000), abs=1)
        for hidden in combinations(range(4), 2):
            wanted = np.isin(range(4), hidden)
            assert (side == wanted).all(1).sum() == pytest.approx(1000, abs=130)


def test_wilson_s_interval_has_known_values():
    assert wilson_interval(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_a_tie_counts_half():
    assert Accuracy.of(np.array([2.0, -1.0, 1e-6, -1e-6])).accuracy == 0.5
    assert Accuracy.of(np.array([2.0, 1e-6])).accuracy == 0.75


def test_a_file_s_pairs_know_their_phenomenon_and_their_line(tmp_path):
    lines = [line(linguistics_term="agreement", UID="u"), "", line(UID="u"), line(good=" A\u2028B. ")]
    path = tmp_path / "plural.jsonl"
    path.write_text("\n".join(lines) + "\n")
    read = read_pairs(path)
    assert [pair.phenomenon for pair in read] == ["agreement", "u", "plural"]
    assert [pair.line for pair in read] == [f"{path}:{number}" for number in (1, 3, 4)]
    assert read[2] == Pair("A\u2028B.", "The dogs runs.", "plural", f"{path}:4")


def test_a_folder_is_the_files_in_it_by_name(tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_text(line())
    (tmp_path / "notes.txt").write_text("no pairs")
    assert [pair.phenomenon for pair in read_pairs(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("{", r":2: not JSON \(.*\); mend or delete"),
        ("[1]", r":2: got '\[1\]'; wanted an object with sentence_good and sentence_bad"),
        ('{"sentence_good": "A."}', ":2: sentence_bad is missing; wanted a sentence"),
        (line(bad="  "), ":2: sentence_bad is '  '; wanted a sentence"),
        (line(good=3), ":2: sentence_good is 3; wanted a sentence"),
    ],
)
def test_a_line_that_is_no_pair_is_named(tmp_path, wrong, said):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{line()}\n{wrong}\n")
    with pytest.raises(UserError, match=said) as caught:
        read_pairs(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_holds_no_pairs_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no \.jsonl file in it"):
        read_pairs(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"empty.jsonl: it is empty"):
        read_pairs(tmp_path)
    (tmp_path / "empty.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"empty.jsonl: can't be read"):
        read_pairs(tmp_path)
    with pytest.raises(UserError, match=r"absent.jsonl: can't be read .*No such file"):
        read_pairs(tmp_path / "absent.jsonl")


PAIRS = [
    Pair("The dog ran.", "The dog runned.", "verbs", "f:1"),
    Pair("She was sad.", "She were sad.", "agreement", "f:2"),
    Pair("They saw it.", "They saw it.", "agreement", "f:3"),
]


@pytest.fixture(scope="module")
def pipeline(tiny_model):
    return DiffusionPipeline.from_pretrained(tiny_model, precision="float32")


def twin_of(pipeline):
    """The same weights, but for reading from left to right."""
    causal = pipeline.config.architecture.model_copy(update={"attention": "causal"})
    sizes = {"vocab_size": pipeline.model.vocab_size, "seq_len": pipeline.seq_len, "end_id": pipeline.tokenizer.end_id}
    model = Denoiser(causal, **sizes, is_autoregressive=True).eval()
    model.load_state_dict(pipeline.model.state_dict())
    folder = ModelFolder.of(model, end_id=pipeline.tokenizer.end_id, objective={"kind": "autoregressive"})
    return DiffusionPipeline(model, pipeline.tokenizer, folder)


@pytest.fixture(scope="module")
def scores(pipeline):
    return score_pairs(pipeline, PAIRS, masks=6, seed=0, batch_size=4)


def test_scores_are_of_all_pairs_and_of_each_phenomenon(scores):
    for verdict in (scores.chain_rule, scores.bound):
        assert verdict.overall.pairs == 3
        assert {name: own.pairs for name, own in verdict.by_phenomenon.items()} == {"agreement": 2, "verbs": 1}
        assert verdict.margins[2] == pytest.approx(0, abs=1e-5)
        assert verdict.by_phenomenon["agreement"].accuracy in (0.25, 0.75)
        assert min(abs(margin) for margin in verdict.margins[:2]) > 1e-3
    assert json.loads(json.dumps(asdict(scores)))["bound"]["overall"]["pairs"] == 3


def test_batches_do_not_change_the_margins(pipeline, scores):
    again = score_pairs(pipeline, PAIRS, masks=6, seed=0, batch_size=1)
    assert again.chain_rule.margins == pytest.approx(scores.chain_rule.margins, abs=1e-4)
    assert again.bound.margins == pytest.approx(scores.bound.margins, abs=1e-4)
    other = score_pairs(pipeline, PAIRS, masks=6, seed=1, batch_size=4)
    assert other.bound.margins != pytest.approx(scores.bound.margins, abs=1e-3)


def nats_from_left_to_right(pipeline, sentence):
    """Of a sentence and its end token: each asked for where nothing stands from it on."""
    ids = pipeline.tokenizer.encode(sentence)
    row = torch.tensor(ids + [pipeline.tokenizer.end_id] * (pipeline.seq_len - len(ids)))
    is_before = torch.ones(len(row), len(row)).tril(-1) > 0
    with torch.no_grad():
        logits = pipeline.model(torch.where(is_before, row, pipeline.tokenizer.mask_id))
    log_probs = logits.double().log_softmax(-1).diagonal(dim1=0, dim2=1).T
    text = torch.arange(len(ids) + 1)
    return -float(log_probs[text, row[text]].sum())


@pytest.mark.parametrize("kind", ["masked", "autoregressive"])
def test_the_chain_rule_reads_from_left_to_right_up_to_the_end_token(pipeline, kind):
    reader = twin_of(pipeline) if kind == "autoregressive" else pipeline
    scores = score_pairs(reader, PAIRS[:2], masks=2, seed=0)
    expected = [nats_from_left_to_right(reader, p.bad) - nats_from_left_to_right(reader, p.good) for p in PAIRS[:2]]
    assert scores.chain_rule.margins == pytest.approx(expected, abs=1e-3)
    assert (scores.bound is None) == (kind == "autoregressive")


def test_a_sentence_longer_than_the_model_is_refused_by_its_line(pipeline):
    long = Pair("The dog ran.", "dog " * 80, "length", "pairs.jsonl:7")
    with pytest.raises(UserError, match=r"pairs.jsonl:7: a sentence of \d+ tokens, but the model takes 63 and an end"):
        score_pairs(pipeline, [*PAIRS, long], masks=2, seed=0)
