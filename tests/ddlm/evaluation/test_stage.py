"""The stage on a small untrained model folder, through the real corpus, tokenizer and pipeline."""

import json
import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ddlm.artifacts import Workspace
from ddlm.config import UserError
from ddlm.data import ShardsConfig
from ddlm.data.shards import build as build_shards
from ddlm.data.shards import read_rows
from ddlm.diffusion import SamplingConfig
from ddlm.evaluation import BUDGETS, EvaluationConfig, measures, sources, stage
from ddlm.evaluation import scores as scoring
from ddlm.evaluation.subject import rows_from_texts
from ddlm.evaluation.written import shown_in_rows
from ddlm.generation import DiffusionPipeline
from ddlm.model import ModelConfig
from ddlm.model.folder import ModelFolder
from ddlm.model.transformer import Denoiser
from ddlm.tokenizer import Tokenizer, TokenizerConfig
from ddlm.tokenizer import build as build_tokenizer

SEQ_LEN = 24
EVALUATION = EvaluationConfig(
    stories=22, masks_per_row=4, chain_rule_stories=2, num_samples=3, num_continuations=4, num_infills=2, prompt_words=5
)
SAMPLING = SamplingConfig(num_sampling_steps=4)


class Recorder:
    id = None

    def __init__(self):
        self.metrics = {}

    def log(self, metrics, step):
        self.metrics |= metrics


def stories(count, seed):
    """Sentences of chance, 8 to 40 words."""
    rng = random.Random(seed)
    words = ["the", "a", "fox", "hen", "Sue", "ran", "saw", "had", "big", "red", "“Hi!”", "and", "day", "sun", "café"]
    return [" ".join(rng.choices(words, k=rng.randint(8, 40))).capitalize() + "." for _ in range(count)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Folders of the artifacts that the stage reads; the model guesses with random weights."""
    root = tmp_path_factory.mktemp("artifacts")
    folders = {name: root / name for name in ("corpus", "tokenizer", "shards", "train", "scratch")}
    for folder in folders.values():
        folder.mkdir()
    for split, (count, seed) in {"train": (40, 0), "validation": (24, 1)}.items():
        pq.write_table(pa.table({"text": stories(count, seed)}), folders["corpus"] / f"{split}.parquet")
    (folders["corpus"] / "report.json").write_text('{"source": {"kind": "sample"}}')
    workspace = Workspace({"corpus": folders["corpus"]}, folders["tokenizer"], folders["scratch"], Recorder())
    build_tokenizer(workspace, tokenizer=TokenizerConfig(vocab_size=270), source=None)
    workspace = Workspace(folders, folders["shards"], folders["scratch"], Recorder())
    build_shards(workspace, shards=ShardsConfig(seq_len=SEQ_LEN))
    pipeline = random_pipeline(Tokenizer.load(folders["tokenizer"]))
    pipeline.save_pretrained(folders["train"])
    curve = "step,train/nll_nats,val/nll_nats,train/lr\n1,5.5,,0.1\n2,5.0,5.2,0.1\n"
    (folders["train"] / "curve.csv").write_text(curve)
    return folders


def random_pipeline(tokenizer, kind="masked"):
    torch.manual_seed(0)
    is_twin = kind == "autoregressive"
    config = ModelConfig(d_model=16, num_layers=1, num_heads=2, attention="causal" if is_twin else "bidirectional")
    sizes = {"vocab_size": tokenizer.vocab_size, "seq_len": SEQ_LEN, "end_id": tokenizer.end_id}
    model = Denoiser(config, **sizes, is_autoregressive=is_twin).eval()
    torch.nn.init.normal_(model.output.weight)
    return DiffusionPipeline(model, tokenizer, ModelFolder.of(model, end_id=tokenizer.end_id, objective={"kind": kind}))


def run_stage(inputs, output, evaluation=EVALUATION):
    output.mkdir()
    workspace = Workspace(inputs, output, inputs["scratch"], Recorder())
    stage.build(workspace, seed=3, sampling=SAMPLING, evaluation=evaluation, source={})
    return workspace


@pytest.fixture(scope="module")
def built(inputs, tmp_path_factory):
    return run_stage(inputs, tmp_path_factory.mktemp("evaluate") / "out")


@pytest.fixture(scope="module")
def scores(built):
    return json.loads((built.output / "scores.json").read_text())


def validation(inputs):
    return pq.read_table(inputs["corpus"] / "validation.parquet")["text"].to_pylist()


def test_the_stage_writes_what_it_promises(built):
    names = ("curve", "lengths", "mask_rates", "calibration", "order")  # one interval alone makes no picture
    pictures = {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    names = {"scores.json", "samples.jsonl", "row_nats.parquet", "report.html"} | pictures
    assert {path.name for path in built.output.iterdir()} == names


def test_scores_have_the_keys_that_others_rely_on(scores):
    assert scores["bound"] == "upper"
    assert scores["bits_per_byte_interval"][0] < scores["bits_per_byte"] < scores["bits_per_byte_interval"][1]
    assert scores["nll_nats_stderr"] > 0
    wanted = {"loss", "loss_stderr", "accuracy", "accuracy_stderr", "masks"}
    assert set(scores["seed_protocols"]["S3"]) == wanted
    for name in ("bleu", "bleu_free", "self_bleu"):
        assert 0 <= scores[name] < 100.1
    for name in ("masked_accuracy", "word_validity", "distinct_1", "distinct_2"):
        assert 0 <= scores[name] <= 1
    for sample in scores["samples"]:
        assert set(sample) == {"text", "prompt", "seed", "number", "ended", "word_validity", "longest_overlap_words"}
    assert scores["model"].startswith("sha256:")
    assert set(scores["chain_rule"]) == {"left_to_right", "confidence", "margin", "any_order"}
    assert scores["chain_rule"]["any_order"]["bound"] == "upper"
    assert {value["bits_per_byte_interval"] for value in scores["chain_rule"].values()} == {None}
    assert {value["stories"] for value in scores["chain_rule"].values()} == {2}
    assert len(scores["mask_rate_curve"]) == 16
    assert scores["provenance"]["torch"] == torch.__version__
    assert not {"host", "command"} & set(scores["provenance"])
    assert scores["copied"]["searched_stories"] == 40


def test_the_bound_is_the_sum_over_rows_and_covers_the_first_stories_whole(inputs, built, scores):
    table = pq.read_table(built.output / "row_nats.parquet").to_pandas()
    first = validation(inputs)[: EVALUATION.stories]
    tokenizer = Tokenizer.load(inputs["train"])
    assert table.text_bytes.groupby(table.story).sum().tolist() == [len(text.encode()) for text in first]
    rows_per_story = [-(-len(tokenizer.encode(text)) // SEQ_LEN) for text in first]
    assert np.bincount(table.story).tolist() == rows_per_story
    assert max(rows_per_story) > 1
    assert scores["nll_nats"] == pytest.approx(table.nats.sum() / table.text_tokens.sum())
    assert scores["bits_per_byte"] == pytest.approx(table.nats.sum() / np.log(2) / table.text_bytes.sum())
    assert scores["data"] == {
        "name": "the bundled sample",
        "stories": EVALUATION.stories,
        "rows": len(table),
        "longer_stories": (np.bincount(table.story) > 1).sum(),
        "text_tokens": table.text_tokens.sum(),
        "text_bytes": table.text_bytes.sum(),
    }


def test_samples_keep_prompt_continuation_and_reference(inputs, built):
    lines = [json.loads(line) for line in (built.output / "samples.jsonl").read_text().splitlines()]
    tokenizer = Tokenizer.load(inputs["train"])
    assert [line["kind"] for line in lines] == ["free"] * 3 + ["continuation"] * 4
    first = validation(inputs)[:4]
    assert max(len(tokenizer.encode(story)) for story in first) > SEQ_LEN
    for line, story in zip(lines[3:], first, strict=True):
        assert len(line["prompt"].split()) == min(5, len(story.split()) // 2)
        assert story.startswith(line["prompt"] + line["reference"])
        assert line["text"] == line["prompt"] + line["continuation"]
        room = SEQ_LEN - len(tokenizer.encode(line["prompt"]))
        assert len(tokenizer.encode(line["reference"])) <= room
    assert any(
        not story.endswith(line["reference"]) for line, story in zip(lines[3:], validation(inputs), strict=False)
    )
    assert all(line["reference"] is None and line["prompt"] == "" for line in lines[:3])


def test_the_report_holds_the_samples_and_all_pictures(built, scores):
    html = (built.output / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 5
    assert measures.with_error("{:.3f}", scores["bits_per_byte"], scores["bits_per_byte_stderr"]) in html
    assert html.count("<blockquote") == 2 * 3 + 1 + 2 * 4


def test_numbers_are_logged_under_their_paths(built, scores):
    assert built.run.metrics["evaluation/bits_per_byte"] == scores["bits_per_byte"]
    assert built.run.metrics["evaluation/seed_protocols/S3/loss"] == scores["seed_protocols"]["S3"]["loss"]
    assert not [name for name in built.run.metrics if "settings" in name]


def test_the_stage_gives_equal_bytes_again(inputs, built, tmp_path):
    again = run_stage(inputs, tmp_path / "again")
    for path in built.output.iterdir():
        assert path.read_bytes() == (again.output / path.name).read_bytes(), path.name


def test_samples_have_one_seed_and_numbers_of_their_own(inputs):
    pipeline = random_pipeline(Tokenizer.load(inputs["train"]))
    narrow = EVALUATION.model_copy(update={"num_samples": 5})
    result = scoring.evaluate(
        pipeline, validation(inputs), model="m", sampling=SAMPLING.model_copy(update={"temperature": 2.0}), seed=7,
        evaluation=narrow,
    )  # fmt: skip
    assert [(written.sample.seed, written.sample.number) for written in result.free] == [(7, i) for i in range(5)]
    assert len({written.sample.tokens for written in result.free}) == 5


def test_a_real_story_that_a_row_does_not_hold_ends_in_an_ellipsis(inputs):
    pipeline, short = random_pipeline(Tokenizer.load(inputs["train"])), "Sue ran."
    cut, whole = shown_in_rows(pipeline, [validation(inputs)[0] * 9, short])
    assert cut.endswith(" …")
    assert validation(inputs)[0].startswith(cut[:10])
    assert whole == short


def test_the_digest_is_of_the_evaluated_text_alone(inputs, scores):
    texts = validation(inputs)
    tokenizer = Tokenizer.load(inputs["train"])
    common = {"model": "m", "sampling": SAMPLING, "seed": 0}
    narrow = EVALUATION.model_copy(update={"num_samples": 2, "num_continuations": 1})
    same = scoring.evaluate(random_pipeline(tokenizer), texts[: EVALUATION.stories], evaluation=narrow, **common).scores
    other = scoring.evaluate(random_pipeline(tokenizer), texts[1:], evaluation=narrow, **common).scores
    assert same["data_digest"] == scores["data_digest"] != other["data_digest"]
    assert not {"copied", "word_validity"} & set(same)


def test_texts_become_the_rows_that_the_shards_hold(inputs):
    rows, _ = rows_from_texts(Tokenizer.load(inputs["train"]), validation(inputs), SEQ_LEN)
    stored = read_rows(inputs["shards"], "validation")
    for name in ("tokens", "text_bytes", "text_tokens"):
        assert np.array_equal(getattr(rows, name), getattr(stored, name))


def test_packed_rows_hold_the_same_text_and_each_is_a_unit_of_its_own(inputs):
    tokenizer, texts = Tokenizer.load(inputs["train"]), validation(inputs)
    rows, story = rows_from_texts(tokenizer, texts, SEQ_LEN, "packed")
    assert rows.text_bytes.sum() == sum(len(text.encode()) for text in texts)
    assert rows.text_tokens.sum() == sum(len(tokenizer.encode(text)) + 1 for text in texts)
    assert story.tolist() == list(range(len(rows)))


def test_stories_too_short_to_continue_give_no_bleu_and_a_report(inputs):
    pipeline = random_pipeline(Tokenizer.load(inputs["train"]))
    few = EVALUATION.model_copy(update={"num_samples": 2})
    result = scoring.evaluate(pipeline, ["Fox", "Hen"], model="m", sampling=SAMPLING, seed=0, evaluation=few)
    assert result.scores["bleu"] is None
    assert result.continued == []


def test_a_larger_budget_never_measures_less():
    budgets = [BUDGETS[name].model_dump() for name in ("quick", "standard", "full")]
    for less, more in pairwise(budgets):
        assert all(less[name] <= more[name] for name in less if isinstance(less[name], int))


def test_a_single_story_is_enough_and_has_no_interval(inputs, caplog, tmp_path):
    pipeline = random_pipeline(Tokenizer.load(inputs["train"]))
    texts = ["Sue saw a big red hen. The fox ran."]
    found = scoring.evaluate(pipeline, texts, model="m", sampling=SAMPLING, seed=0, evaluation=EVALUATION)
    assert found.scores["bits_per_byte_interval"] is None
    assert "3 samples are compared with 1 story: there are no more" in caplog.text
    stage.write(found, tmp_path, texts)
    assert (tmp_path / "report.html").exists()


def test_the_gap_to_a_twin_is_paired_over_stories(inputs):
    tokenizer, texts = Tokenizer.load(inputs["train"]), validation(inputs)
    pipeline, twin = random_pipeline(tokenizer), random_pipeline(tokenizer, "autoregressive")
    few = EVALUATION.model_copy(update={"num_samples": 2, "num_continuations": 1})
    found = scoring.evaluate(
        pipeline, texts, model="m", sampling=SAMPLING, seed=0, evaluation=few, companions=scoring.Companions(twin=twin)
    ).scores
    alone = scoring.evaluate(twin, texts, model="t", sampling=SAMPLING, seed=0, evaluation=few).scores
    assert alone["bound"] == found["twin"]["bound"] == "exact"
    assert alone["nll_nats_stderr"] == 0
    assert found["twin"]["bits_per_byte"] == alone["bits_per_byte"]
    assert found["twin"]["next_token_accuracy"] == alone["next_token_accuracy"]
    low, high = found["twin"]["gap_interval"]
    assert low <= found["twin"]["gap_bits_per_byte"] <= high
    assert found["twin"]["gap_bits_per_byte"] == pytest.approx(found["bits_per_byte"] - alone["bits_per_byte"])
    assert alone["seed_protocols"] == {}
    assert "masked_accuracy" not in alone


def test_what_evaluation_reads_from_outside_is_part_of_its_source(tmp_path):
    judge, pairs = tmp_path / "judge", tmp_path / "pairs.jsonl"
    judge.mkdir()
    (judge / "config.json").write_text("{}")
    pairs.write_text("a")
    settings = EvaluationConfig(judge=str(judge), pairs=str(pairs), twin="somebody/twin")
    first = sources.resolve(SAMPLING, settings)
    assert first["twin"] == "somebody/twin"
    (judge / "config.json").write_text("{ }")
    second = sources.resolve(SAMPLING, settings)
    assert first["judge"] != second["judge"]
    assert first["pairs"] == second["pairs"]
    with pytest.raises(UserError, match="no such file or folder"):
        sources.resolve(SAMPLING, EvaluationConfig(pairs=str(tmp_path / "nothing")))


def test_a_frontier_without_a_judge_is_refused():
    with pytest.raises(ValueError, match="needs a judge"):
        EvaluationConfig(frontier="quick")
