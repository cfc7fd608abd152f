"""Gaps: what stands around them stays, and what fills them is text."""

from collections.abc import Callable

import pytest

from ddlm.config import UserError
from ddlm.diffusion import SamplingConfig
from ddlm.generation import DiffusionPipeline, drafts

Build = Callable[..., DiffusionPipeline]
SHORT = SamplingConfig(num_sampling_steps=4, top_p=1.0, temperature=1.5)


def test_gaps_of_known_length_take_so_many_tokens_and_the_rest_stays(build: Build) -> None:
    pipeline = build()
    encode = pipeline.tokenizer.encode
    for sample in pipeline.infill("The dog ___[3] and ___[2] ran.", num_samples=3, sampling=SHORT).samples:
        around = [encode("The dog"), encode(" and"), encode(" ran.")]
        assert len(sample.tokens) == sum(map(len, around)) + 5
        assert list(sample.tokens[: len(around[0])]) == around[0]
        assert list(sample.tokens[len(around[0]) + 3 :][: len(around[1])]) == around[1]
        assert sample.text.endswith(" ran.")
        assert pipeline.tokenizer.end_id not in sample.tokens


@pytest.mark.parametrize("text", ["___ ran home.", "The dog saw a ___", "___[2]", " ".join(["a ___[1]"] * 20)])
def test_a_gap_may_stand_anywhere_and_there_may_be_many(build: Build, text: str) -> None:
    filled = build().infill(text, sampling=SHORT).samples[0]
    assert "___" not in filled.text
    assert drafts.GAP.sub("", text).split()[-1:] in ([], filled.text.split()[-1:]) or text.endswith(("___", "[1]"))


def test_a_line_of_any_length_is_one_gap_and_two_underscores_are_none(build: Build) -> None:
    pipeline = build()
    texts = [pipeline.infill(text, sampling=SHORT).samples[0].text for text in ("A ________ dog", "A ___ dog")]
    assert texts[0] == texts[1]
    with pytest.raises(UserError, match="no gap in 'An __init__ dog'"):
        pipeline.infill("An __init__ dog")


def test_a_word_behind_a_space_brings_its_space(build: Build) -> None:
    pipeline = build()
    starts = pipeline.tokenizer.word_starts()
    for sample in pipeline.infill("The ___[2] ran.", num_samples=8, sampling=SHORT).samples:
        assert starts[sample.tokens[len(pipeline.tokenizer.encode("The"))]]


@pytest.mark.parametrize(
    ("prompt", "length"), [("The dog ", None), ("The dog ", 5), (" ", None), ("The dog ", 60), ("word " * 40, 5)]
)
def test_the_space_behind_a_prompt_belongs_to_the_first_new_word(build: Build, prompt: str, length: int | None) -> None:
    """Of a prompt as long as the canvas, too, which is written on a later window."""
    pipeline = build()
    given = len(pipeline.tokenizer.encode(prompt[:-1]))
    for sample in pipeline.generate(prompt, num_samples=4, sampling=SHORT, length=length).samples:
        assert list(sample.tokens[:given]) == pipeline.tokenizer.encode(prompt[:-1])
        if len(sample.tokens) > given:
            assert pipeline.tokenizer.decode(sample.tokens[given : given + 1]).startswith(" ")
            assert sample.text.startswith(prompt)


def test_of_unknown_lengths_the_filling_with_the_lowest_bound_a_token_is_kept(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = build()
    seen: list[tuple[float, str]] = []
    original = DiffusionPipeline._gap_nats

    def watched(self: DiffusionPipeline, draft: drafts.Draft, sample: object) -> float:
        seen.append((original(self, draft, sample), sample.text))  # type: ignore[arg-type, attr-defined]
        return seen[-1][0]

    monkeypatch.setattr(DiffusionPipeline, "_gap_nats", watched)
    kept = pipeline.infill("The ___ ran to the ___.", sampling=SHORT).samples[0]
    assert len(seen) == len(drafts.GAP_LENGTHS)
    assert kept.text == min(seen)[1]


def test_each_gap_of_unknown_length_is_tried_with_every_length(build: Build) -> None:
    pipeline = build()
    tried = drafts.gapped(pipeline.tokenizer, "The ___ a ___[5] b ___", 0, seq_len=pipeline.seq_len)
    mask_id = pipeline.tokenizer.mask_id

    def first_gap(draft: drafts.Draft) -> int:
        behind = draft.tokens[len(pipeline.tokenizer.encode("The")) :]
        return next(place for place, token in enumerate(behind) if token != mask_id)

    assert sorted(map(first_gap, tried)) == sorted(drafts.GAP_LENGTHS)
    assert len({draft.tokens.count(mask_id) for draft in tried}) > 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no gap", "mark gaps with ___"),
        ("a ___[0] gap", r"a gap ___\[0\]; wanted ___\[1\] to ___\[47\]"),
        ("___[999999999]", r"wanted ___\[1\] to ___\[47\]"),
        (f"___[{'9' * 5000}]", r"a gap ___\[9+… \(5005 characters\); wanted ___\[1\] to ___\[47\]"),
        ("a ___[x] gap", r"a gap ___\[x\]; wanted a number of tokens, as in ___\[5\], or ___ alone"),
        ("a ___[-1] gap", r"a gap ___\[-1\]; wanted a number of tokens"),
        ("a ___[] gap", r"a gap ___\[\]; wanted a number of tokens"),
        ("dog ___[40] dog ran to the park", "but the model takes 48; shorten the text"),
        ("", "no gap in ''"),
    ],
)
def test_what_can_t_be_filled_is_refused(build: Build, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build().infill(text)
