"""A history is small and gives back every frame."""

import pytest

from ddlm.diffusion import SamplingConfig
from ddlm.generation import Frame, Tile
from ddlm.generation.frames import frame_of
from ddlm.ui.history import FADING, SETTLED, History


def history_of(pipeline, frames):
    history = History(pipeline.tokenizer)
    for frame in frames:
        history.add(frame)
    return history


def drawn(pipeline, *states, steps=2):
    """Frames of one letter a token, by states such as `pmn`."""
    names = {"p": "prompt", "s": "shown", "n": "new", "m": "masked", "e": "end"}
    frames = []
    for step, row in enumerate(states):
        tokens = [pipeline.tokenizer.encode(letter)[0] for letter in "abcdefgh"[: len(row)]]
        tiles = [
            Tile(pipeline.tokenizer.mask_id if state == "m" else token, names[state], 0.5)
            for token, state in zip(tokens, row, strict=True)
        ]
        frames.append(frame_of(tiles, pipeline.tokenizer, step, steps))
    return frames


@pytest.mark.parametrize("unmasking", ["confidence", "remdm_cap"])
def test_every_frame_comes_back_as_it_was(loaded, unmasking):
    sampling = SamplingConfig(num_sampling_steps=6, unmasking=unmasking)
    frames = loaded.pipeline.frames("One day", sampling=sampling, seed=3)
    kept = {frame.step: frame for frame in history_of(loaded.pipeline, frames).frames()}
    assert len(kept) >= 4
    for frame in frames:
        if found := kept.get(frame.step):
            assert [(span.text, span.state) for span in found.spans] == [
                (span.text, span.state) for span in frame.spans
            ]
            assert [tile.confidence for tile in found.tiles] == pytest.approx(
                [tile.confidence if tile.state == "new" else 0 for tile in frame.tiles]
            )


def test_it_takes_few_bytes(loaded):
    frames = loaded.pipeline.frames("One day", sampling=SamplingConfig(num_sampling_steps=32))
    history = history_of(loaded.pipeline, frames)
    assert len(history) == 33
    assert sum(len(each.tokens) for each in history.moments) <= 2 * loaded.pipeline.seq_len  # masks, and then words


def test_a_frame_in_which_nothing_happens_is_left_out(loaded):
    frames = drawn(loaded.pipeline, "pmm", "pnm", "psn", "pss", "pss")
    assert len(history_of(loaded.pipeline, frames)) == 3


def test_shares_count_what_the_model_writes_and_nothing_else(loaded):
    history = history_of(loaded.pipeline, drawn(loaded.pipeline, "ppmmmm", "ppnnme", "ppssne"))
    assert [history.share(number) for number in range(3)] == [0, 2 / 3, 1]
    assert [moment.written for moment in history.moments] == [0, 2, 3]


def test_a_word_looks_new_for_some_steps(loaded):
    rows = ["mm" + "m" * FADING] + ["s" * step + "n" + "m" * (FADING + 1 - step) for step in range(FADING)]
    history = history_of(loaded.pipeline, drawn(loaded.pipeline, *[row[:8] for row in rows]))
    assert [mark.age for mark in history.marks(5)[:5]] == [4, 3, 2, 1, 0]
    assert history.marks(5)[0].sure == 0.5
    assert history.marks(0)[0].age == SETTLED


def test_when_a_text_is_finished_its_last_words_have_settled(loaded):
    history = history_of(loaded.pipeline, drawn(loaded.pipeline, "mm", "nm", "sn"))
    assert [mark.age for mark in history.marks(2)] == [1, 0]
    history.is_finished = True
    assert [mark.age for mark in history.marks(2)] == [SETTLED, SETTLED]
    assert [mark.age for mark in history.marks(1)] == [0, SETTLED]


def test_a_word_that_is_masked_again_and_rewritten_is_new_again(loaded):
    history = history_of(loaded.pipeline, drawn(loaded.pipeline, "mm", "nm", "mn", "ns"))
    assert [mark.age for mark in history.marks(3)] == [0, 1]
    assert history.marks(2)[0].state == "masked"


def test_a_film_knows_how_many_steps_there_were(loaded):
    frames = history_of(loaded.pipeline, drawn(loaded.pipeline, "mm", "nn", steps=64)).frames()
    assert [(frame.step, frame.num_sampling_steps) for frame in frames] == [(0, 1), (1, 1)]
    assert isinstance(frames[0], Frame)
