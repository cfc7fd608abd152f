"""The pipeline object: prompts, gaps, frames, folders."""

from itertools import pairwise
from pathlib import Path

import pytest

from ddlm.config import UserError
from ddlm.diffusion import SamplingConfig
from ddlm.generation import DiffusionPipeline, find_folder

SHORT = SamplingConfig(num_sampling_steps=8)


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> DiffusionPipeline:
    return DiffusionPipeline.from_pretrained(tiny_model)


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


def test_length_limits_what_is_written(pipeline: DiffusionPipeline) -> None:
    prompt = pipeline.tokenizer.encode("A dog")
    made = pipeline.generate("A dog", sampling=SHORT, length=5).samples[0]
    assert len(made.tokens) <= len(prompt) + 5


def test_gaps_are_filled_and_the_rest_stays(pipeline: DiffusionPipeline) -> None:
    made = pipeline.infill("Tom saw a ___ and ___[2] ran home.", sampling=SHORT).samples[0]
    assert made.text.startswith("Tom saw a")
    assert made.text.endswith(" ran home.")
    assert "___" not in made.text
    around = [pipeline.tokenizer.encode(part) for part in ("Tom saw a", " and", " ran home.")]
    assert len(made.tokens) == sum(map(len, around)) + 4 + 2


def test_frames_go_from_masks_to_the_finished_text(pipeline: DiffusionPipeline) -> None:
    frames = pipeline.frames("Once", sampling=SHORT, seed=2)
    assert [frame.step for frame in frames] == list(range(9))
    masked = [sum(len(span.text) for span in frame.spans if span.state == "masked") for frame in frames]
    assert all(after < before for before, after in pairwise(masked))
    assert masked[0] == pipeline.seq_len - len(pipeline.tokenizer.encode("Once"))
    assert masked[-1] == 0
    assert frames[3].spans[0].text == "Once"
    assert frames[3].spans[0].state == "prompt"
    finished = pipeline.generate("Once", sampling=SHORT, seed=2).samples[0]
    assert [span.state for span in frames[1].spans].count("new") > 0
    shown = "".join(span.text for span in frames[-1].spans)
    assert shown.replace("�", "") == finished.text.replace("�", "")


def test_a_saved_pipeline_writes_the_same(pipeline: DiffusionPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "copy")
    again = DiffusionPipeline.from_pretrained(tmp_path / "copy")
    assert again.generate(sampling=SHORT).samples == pipeline.generate(sampling=SHORT).samples
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names


def test_a_model_is_a_folder_an_experiment_or_a_hub_id(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDLM_HOME", str(tmp_path))
    assert find_folder(str(tiny_model)) == tiny_model
    (tmp_path / "tiny" / "model").mkdir(parents=True)
    assert find_folder("tiny") == tmp_path / "tiny" / "model"
    with pytest.raises(UserError, match="finished ones: tiny"):
        find_folder("tinny")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="model some/model: no folder, and the hub said"):
        find_folder("some/model")
