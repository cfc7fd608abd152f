"""Chat models: turns, tags and where a reply ends."""

from collections.abc import Callable

import pytest

from ddlm.config import UserError
from ddlm.diffusion import SamplingConfig
from ddlm.generation import DiffusionPipeline, drafts
from ddlm.tokenizer import ASSISTANT, END_OF_TURN, SYSTEM, USER

Build = Callable[..., DiffusionPipeline]
SHORT = SamplingConfig(num_sampling_steps=4, top_p=1.0, temperature=2.0)


def test_turns_are_written_as_the_model_was_trained_on_them(build: Build) -> None:
    tokenizer = build(chat=True).tokenizer
    ids = tokenizer.encode_chat([("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello."), ("user", "A dog")])
    told = tokenizer.backend.decode(ids, skip_special_tokens=False)
    assert told == (f"{SYSTEM}\nBe kind.\n{USER}\nHi\n{ASSISTANT}\nHello.\n{END_OF_TURN}\n{USER}\nA dog\n{ASSISTANT}\n")
    assert tokenizer.encode_chat([("user", "Write a short story.")]) == tokenizer.story_prefix


def test_a_reply_holds_neither_turns_nor_tags(build: Build) -> None:
    pipeline = build(chat=True)
    tags = set(pipeline.tokenizer.unwritable_ids) | set(pipeline.tokenizer.stop_ids)
    assert len(tags) == 5
    for seed in range(6):
        reply = pipeline.reply([("user", "A dog")], sampling=SHORT, seed=seed).samples[0]
        assert not tags & set(reply.tokens)
        assert "A dog" not in reply.text or not reply.text.startswith("A dog")


def test_the_oldest_turns_go_and_the_system_stays(build: Build) -> None:
    pipeline = build(chat=True)
    turns = [("system", "Be kind."), *[("user", f"dog {number}") for number in range(9)]]
    draft = drafts.in_conversation(pipeline.tokenizer, turns, 0, seq_len=pipeline.seq_len)
    told = pipeline.tokenizer.backend.decode(draft.tokens, skip_special_tokens=False)
    assert told.startswith(f"{SYSTEM}\nBe kind.\n{USER}\n")
    assert "dog 8" in told
    assert "dog 0" not in told
    assert len(draft.tokens) <= pipeline.seq_len // 2


def test_a_prompt_continues_the_reply_and_the_request_is_hidden(build: Build) -> None:
    pipeline = build(chat=True)
    made = pipeline.generate("Once upon", sampling=SHORT, num_samples=4).samples
    assert all(sample.text.startswith("Once upon") for sample in made)
    frame = pipeline.frames("Once upon", sampling=SHORT)[0]
    assert frame.spans[0].text == "Once upon"
    filled = pipeline.infill("The ___[2] ran.", sampling=SHORT).samples[0]
    assert filled.text.startswith("The")


def test_the_name_of_a_tag_in_a_prompt_stays_plain_text(build: Build) -> None:
    sample = build(chat=True).generate("<|end|>", sampling=SHORT).samples[0]
    assert sample.text.startswith("<|end|>")


@pytest.mark.parametrize(
    ("chat", "turns", "said"),
    [
        (False, [("user", "Hi")], "knows no chat tags; train one with tokenizer.chat=true"),
        (True, [("robot", "Hi")], "role 'robot'; wanted one of system, user, assistant"),
        (True, [("user", "dog " * 100)], "but the model takes 48 in all; shorten it"),
    ],
)
def test_what_can_t_be_answered_is_refused(build: Build, chat: bool, turns: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(chat=chat).reply(turns)
