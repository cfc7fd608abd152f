"""Texts as HTML: escaped, and whole characters whatever tokens they are made of."""

import re
from html import unescape

import pytest

from ddlm.diffusion import SamplingConfig
from ddlm.generation import Tile
from ddlm.generation.frames import frame_of
from ddlm.ui.history import History
from ddlm.ui.sheet import Sheet, sheets_html, story_html


def history_of(pipeline, *states):
    """A history of (token, state, confidence) triples, one list a step."""
    history = History(pipeline.tokenizer)
    for step, row in enumerate(states):
        tiles = [Tile(*each) for each in row]
        history.add(frame_of(tiles, pipeline.tokenizer, step, len(states)))
    return history


def text_of(story):
    return unescape(re.sub("<[^>]*>", "", story))


@pytest.fixture(scope="module")
def written(loaded):
    history = History(loaded.pipeline.tokenizer)
    for frame in loaded.pipeline.frames("One <b>day</b> & 'night'", sampling=SamplingConfig(num_sampling_steps=8)):
        history.add(frame)
    history.is_finished = True
    return history


def test_markup_is_shown_and_not_obeyed(written):
    for number in range(len(written)):
        story = story_html(written, number)
        assert "One &lt;b&gt;day&lt;/b&gt; &amp; &#x27;night&#x27;" in story.replace(
            '<span class="prompt">', ""
        ).replace("</span>", "")
        assert set(re.findall(r"<(/?\w+)", story)) <= {"span", "/span", "i", "/i"}


@pytest.mark.parametrize("state", ["prompt", "shown", "new", "masked"])
def test_markup_that_a_model_writes_is_shown_too(loaded, state):
    tokens, mask = loaded.pipeline.tokenizer.encode("<b>&"), loaded.pipeline.tokenizer.mask_id
    first = [(mask if state == "masked" else token, state, 0.5) for token in tokens]
    history = history_of(loaded.pipeline, first, [(token, "new", 0.5) for token in tokens])
    history.is_finished = True
    for number in range(len(history)):
        story = story_html(history, number)
        assert "&lt;b&gt;&amp;" in story
        assert "<b>" not in story


def test_a_title_and_an_address_are_escaped_too(written):
    html = sheets_html([Sheet(written, '<img src=x onerror="1">', 'film/"><script>')])
    assert "<img" not in html
    assert "<script" not in html


def test_the_finished_text_is_what_the_pipeline_says(written, loaded):
    made = loaded.pipeline.generate("One <b>day</b> & 'night'", sampling=SamplingConfig(num_sampling_steps=8))
    assert text_of(story_html(written, len(written) - 1)) == made.samples[0].text


def test_in_a_finished_text_no_word_moves_while_it_is_looked_back_on(written):
    whole = text_of(story_html(written, len(written) - 1))
    for number in range(len(written)):
        story = story_html(written, number)
        assert text_of(story) == whole
        assert ('class="hidden"' in story) == (written.share(number) < 1)


def test_while_it_is_written_a_mask_is_a_pill(loaded):
    mask, (word,) = loaded.pipeline.tokenizer.mask_id, loaded.pipeline.tokenizer.encode("a")
    history = history_of(loaded.pipeline, [(mask, "masked"), (mask, "masked")], [(word, "new", 0.9), (mask, "masked")])
    assert story_html(history, 0) == "<i></i><i></i>"
    assert story_html(history, 1) == '<span class="new sure-4 age-0">a</span><i></i>'
    history.is_finished = True  # it was stopped: nobody knows what would have come
    assert story_html(history, 1) == "a<i></i>"


@pytest.mark.parametrize(("confidence", "shade"), [(0.0, 0), (0.19, 0), (0.5, 2), (0.99, 4), (1.0, 4)])
def test_colours_say_how_sure_the_model_was(loaded, confidence, shade):
    (word,) = loaded.pipeline.tokenizer.encode("a")
    history = history_of(loaded.pipeline, [(word, "new", confidence)])
    assert f"sure-{shade} age-0" in story_html(history, 0)


@pytest.mark.parametrize("states", ["nsns", "ssnn", "pnsn", "nnnn"])
def test_a_character_of_several_tokens_stays_whole(loaded, states):
    names = {"p": "prompt", "s": "shown", "n": "new"}
    tokens = loaded.pipeline.tokenizer.encode("🙂")
    assert len(tokens) == 4
    row = [(token, names[state], 0.5) for token, state in zip(tokens, states, strict=True)]
    assert text_of(story_html(history_of(loaded.pipeline, row), 0)) == "🙂"


def test_spaces_and_line_breaks_have_no_colour(loaded):
    row = [(token, "new", 0.5) for token in loaded.pipeline.tokenizer.encode(" one two\n\nthree")]
    story = story_html(history_of(loaded.pipeline, row), 0)
    assert text_of(story) == " one two\n\nthree"
    assert re.findall(r">([^<]+)</span>", story) == ["one", "two", "three"]


def test_of_several_texts_each_stops_at_its_own_end(written, loaded):
    short = history_of(loaded.pipeline, [(loaded.pipeline.tokenizer.mask_id, "masked")])
    html = sheets_html([Sheet(written), Sheet(short)], len(written) - 1)
    assert "sheets of-2" in html
    assert re.findall(r"step (\d+) of", html) == [str(written.moments[-1].step), "0"]


def test_nothing_written_yet_is_said():
    assert "The text appears here" in sheets_html(())
