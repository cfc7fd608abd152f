"""The pipeline object: prompts, gaps, frames, folders."""

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ddlm.config import Unreachable, UserError
from ddlm.diffusion import SamplingConfig
from ddlm.generation import DiffusionPipeline, Frame, find_folder
from ddlm.model import device

SHORT = SamplingConfig(num_sampling_steps=8)


def test_texts_begin_with_the_prompt_and_follow_the_seed(pipeline: DiffusionPipeline) -> None:
    made = pipeline.generate("Once upon", num_samples=2, sampling=SHORT, seed=3)
    assert all(sample.text.startswith("Once upon") for sample in made.samples)
    assert made.samples[0].text != made.samples[1].text
    assert made.samples == pipeline.generate("Once upon", num_samples=2, sampling=SHORT, seed=3).samples
    assert made.samples != pipeline.generate("Once upon", num_samples=2, sampling=SHORT, seed=4).samples
    assert made.calls == 8
    for sample in made.samples:
        assert pipeline.tokenizer.end_id not in sample.tokens
        assert max(sample.tokens) < pipeline.tokenizer.vocab_size


def test_a_sample_is_the_same_alone_and_among_others(pipeline: DiffusionPipeline) -> None:
    alone = pipeline.generate("A dog", sampling=SHORT, seed=1).samples[0]
    among = pipeline.generate_batch(["A dog", "", "The cat sat on the"], sampling=SHORT, seed=1).samples[0]
    assert alone.text == among.text


@pytest.mark.parametrize(
    ("prompt", "length"), [("A dog", 5), ("", 62), ("A dog", 64), ("", 200), ("word " * 59 + "word", 70)]
)
def test_a_length_is_exact_also_beyond_the_canvas_and_for_a_prompt_longer_than_it(
    pipeline: DiffusionPipeline, prompt: str, length: int
) -> None:
    given = pipeline.tokenizer.encode(prompt)
    made = pipeline.generate(prompt, sampling=SHORT, length=length, num_samples=2)
    for sample in made.samples:
        assert len(sample.tokens) == len(given) + length
        assert list(sample.tokens[: len(given)]) == given
        assert pipeline.tokenizer.end_id not in sample.tokens


def test_windows_do_not_repeat_each_other_s_draws(pipeline: DiffusionPipeline) -> None:
    tokens = pipeline.generate(length=150, sampling=SHORT).samples[0].tokens
    assert tokens[64:96] != tokens[32:64] != tokens[96:128]


def test_texts_do_not_depend_on_how_many_are_written_at_once(pipeline: DiffusionPipeline) -> None:
    together = pipeline.generate("A dog", num_samples=5, sampling=SHORT, seed=2)
    in_parts = pipeline.generate("A dog", num_samples=5, sampling=SHORT, seed=2, rows_at_once=2)
    assert together.samples == in_parts.samples
    assert [sample.number for sample in together.samples] == list(range(5))
    assert in_parts.calls == 3 * together.calls


def test_a_prompt_that_leaves_no_room_is_refused(pipeline: DiffusionPipeline) -> None:
    with pytest.raises(
        UserError, match="the model writes 64 in all; shorten it to at most 63 tokens, or give --length"
    ):
        pipeline.generate("word " * 100)
    with pytest.raises(UserError, match="length 0: wanted at least 1"):
        pipeline.generate(length=0)


def test_frames_go_from_masks_to_the_finished_text(pipeline: DiffusionPipeline) -> None:
    frames = pipeline.frames("Once", sampling=SHORT, seed=2)
    assert [frame.step for frame in frames] == list(range(len(frames)))
    assert frames[0].num_sampling_steps == len(frames) - 1
    masked = [sum(len(span.text) for span in frame.spans if span.state == "masked") for frame in frames]
    assert all(after < before for before, after in pairwise(masked))
    assert masked[0] == pipeline.seq_len - len(pipeline.tokenizer.encode("Once"))
    assert masked[-1] == 0
    assert frames[3].spans[0].text == "Once"
    assert frames[3].spans[0].state == "prompt"
    finished = pipeline.generate("Once", sampling=SHORT, seed=2).samples[0]
    assert [span.state for span in frames[1].spans].count("new") > 0
    assert [frame.step for frame in pipeline.stream("Once", sampling=SHORT, seed=2)] == [frame.step for frame in frames]
    sure = [span.confidence for frame in frames for span in frame.spans if span.state == "new"]
    assert all(value is not None and 0 < value <= 1 for value in sure)
    shown = "".join(span.text for span in frames[-1].spans)
    assert shown.replace("�", "") == finished.text.replace("�", "")


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"unmasking": "random"},
        {"unmasking": "first_hitting"},
        {"unmasking": "remdm_cap"},
        {"unmasking": "confidence", "block_size": 24},
        {"unmasking": "threshold", "threshold": 0.05, "most_per_step": 16},
    ],
)
def test_the_steps_of_a_text_longer_than_the_canvas_are_counted_as_one_whole(
    pipeline: DiffusionPipeline, settings: dict[str, Any], rows: int
) -> None:
    seen: list[Frame] = []
    prompts, sampling = ["Once", "A dog sat down. " * 9, ""][:rows], SamplingConfig(num_sampling_steps=8, **settings)
    made = pipeline.generate_batch(prompts, sampling=sampling, length=150, observer=seen.append)
    assert all(frame.step <= frame.num_sampling_steps for frame in seen)
    assert all(one.step <= other.step for one, other in pairwise(seen))
    assert all(one.num_sampling_steps >= other.num_sampling_steps for one, other in pairwise(seen))
    assert seen[-1].step == made.num_sampling_steps
    if settings["unmasking"] != "threshold":  # which may need fewer than it is allowed
        assert {frame.num_sampling_steps for frame in seen} == {made.num_sampling_steps}


def test_a_text_is_ended_by_the_model_by_its_length_or_by_what_stands_behind_its_gaps(
    pipeline: DiffusionPipeline,
) -> None:
    wild = SamplingConfig(num_sampling_steps=8, temperature=2.0, top_p=1.0, ends="free")
    made = pipeline.generate("A dog", num_samples=30, sampling=wild).samples
    assert [sample.ended for sample in made] == [len(sample.tokens) < pipeline.seq_len for sample in made]
    assert {sample.ended for sample in made} == {True, False}
    room = pipeline.seq_len - len(pipeline.tokenizer.encode("A dog"))
    assert pipeline.generate("A dog", sampling=SHORT, length=room).samples[0].ended
    assert pipeline.infill("A dog ___[3]", sampling=SHORT).samples[0].ended


def test_a_saved_pipeline_writes_the_same(pipeline: DiffusionPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "copy")
    again = DiffusionPipeline.from_pretrained(tmp_path / "copy", precision="float32")
    assert again.generate(sampling=SHORT).samples == pipeline.generate(sampling=SHORT).samples
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names


def test_a_model_is_a_folder_an_experiment_or_a_hub_id(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDLM_HOME", str(tmp_path))
    assert find_folder(str(tiny_model)) == tiny_model
    shutil.copytree(tiny_model, tmp_path / "tiny" / "model")
    last = tmp_path / "tiny" / "model"
    assert find_folder("tiny") == find_folder(last) == find_folder(tmp_path / "tiny") == last
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_folder("~/tiny") == last
    monkeypatch.chdir(tmp_path)  # a folder of the experiment's name, with a model in it, is here too
    assert find_folder("tiny").resolve() == last
    (tmp_path / "elsewhere" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")  # one without hides nothing
    assert find_folder("tiny") == last
    shutil.copytree(tiny_model, tmp_path / "downloaded" / "artifacts" / "0123abcd")
    assert find_folder(tmp_path / "downloaded") == tmp_path / "downloaded" / "artifacts" / "0123abcd"
    with pytest.raises(UserError, match="finished ones: tiny"):
        find_folder("tinny")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Unreachable, match="model some/model: no folder here, and no word of the hub"):
        find_folder("some/model")
    for empty in ("", " "):
        with pytest.raises(UserError, match="wanted a folder, an experiment's name or a hub id"):
            find_folder(empty)


@pytest.mark.usefixtures("can_compile")
@pytest.mark.parametrize(
    ("compile", "precision", "texts", "wanted"),
    [
        ("auto", "bfloat16", 100_000, True),
        ("auto", "bfloat16", 1, False),
        ("auto", "float32", 100_000, False),
        ("off", "bfloat16", 100_000, False),
        ("on", "float32", 1, True),
    ],
)
def test_the_network_is_compiled_where_that_pays_and_a_seed_s_text_was_not_promised(
    tiny_model: Path, compile: str, precision: str, texts: int, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = DiffusionPipeline.from_pretrained(tiny_model, precision=precision, compile=compile)
    compiled: list[bool] = []
    monkeypatch.setattr(pipeline.writer, "compile_blocks", lambda: compiled.append(True))
    monkeypatch.setitem(device.COMPILE_FLOPS, "cpu", 1e10)
    for _ in range(2):
        pipeline.runner.prepare(texts * pipeline.seq_len)
    assert compiled == [True] * wanted


@pytest.mark.usefixtures("can_compile")
def test_compiling_that_is_asked_for_and_impossible_is_refused(
    pipeline: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match="no C\\+\\+ compiler"):
        DiffusionPipeline(pipeline.model, pipeline.tokenizer, pipeline.config, compile="on").generate(sampling=SHORT)
