"""Visitors' texts are the pipeline's own, stop when told, and do not mix."""

import io
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from html import unescape

import pytest
from PIL import Image

from ddlm.config import UserError
from ddlm.ui.desk import Desk, Desks
from ddlm.ui.sheet import sheets_html, story_html


def texts(desk):
    stories = (story_html(sheet.history, len(sheet.history) - 1) for sheet in desk.sheets)
    return [unescape(re.sub("<[^>]*>", "", story)) for story in stories]


def written(loaded, order):
    desk = Desk()
    for _ in desk.write(loaded, order):
        pass
    return desk


@pytest.fixture
def calls(loaded, monkeypatch):
    """How often the network has run."""
    runs, at = [], loaded.pipeline.runner.at
    monkeypatch.setattr(loaded.pipeline.runner, "at", lambda *given: runs.append(None) or at(*given))
    return runs


@pytest.mark.parametrize("text", ["One day", "The dog ___ to the ___[3].", "_____ ran away"])
def test_texts_are_those_of_the_command_line(loaded, ask, text):
    order = ask(text, samples=2, seed=5, temperature=1.0)
    pipeline, sampling = loaded.pipeline, order.ways[0]
    write = pipeline.infill if order.has_gaps else pipeline.generate
    made = write(order.text, num_samples=2, sampling=sampling, seed=5)
    assert texts(written(loaded, order)) == [sample.text for sample in made.samples]


def test_a_text_of_given_length_slides_over_more_than_the_canvas(loaded, ask):
    order = ask("One day " * 40, length=90)
    made = loaded.pipeline.generate(order.text, sampling=order.ways[0], length=90)
    desk = written(loaded, order)
    assert texts(desk) == [made.samples[0].text]
    assert desk.sheets[0].history.last.written == 90


def test_the_progress_of_a_text_longer_than_the_canvas_is_that_of_the_whole(loaded, ask, monkeypatch):
    monkeypatch.setattr("ddlm.ui.desk.FRAME_S", 0)
    desk = Desk()
    steps = {desk.sheets[0].history.steps for _ in desk.write(loaded, ask("One day", length=150))}
    history = desk.sheets[0].history
    shares = [history.share(number) for number in range(len(history))]
    assert shares == sorted(shares)
    assert shares[8] < 0.5  # the first window is full
    assert steps == {history.last.step}


def test_a_stopped_text_says_of_how_many_steps_it_took_some(loaded, ask, monkeypatch):
    monkeypatch.setattr("ddlm.ui.desk.FRAME_S", 0)
    desk = Desk()
    going = desk.write(loaded, ask("One day", length=150))
    for _ in range(12):
        next(going)
    desk.stop()
    list(going)
    history = desk.sheets[0].history
    assert (history.last.step < history.steps, history.share(len(history) - 1) < 1) == (True, True)


def test_a_text_that_the_canvas_cut_off_says_so_in_its_last_state(loaded, ask):
    (sample,) = loaded.pipeline.generate("One day", sampling=ask().ways[0]).samples
    assert not sample.ended
    (cut,) = written(loaded, ask("One day")).sheets
    (whole,) = written(loaded, ask("One day", length=9)).sheets
    assert (cut.goes_on, whole.goes_on) == (True, False)
    assert "goes-on" in sheets_html([cut])
    assert "goes-on" not in sheets_html([cut], 0) + sheets_html([whole])


def test_two_orders_write_side_by_side_with_one_seed(loaded, ask):
    desk = written(loaded, ask("One day", unmasking="margin", rival="random", seed=3))
    alone = [written(loaded, ask("One day", unmasking=name, seed=3)) for name in ("margin", "random")]
    assert texts(desk) == [text for each in alone for text in texts(each)]
    assert [sheet.title for sheet in desk.sheets] == ["margin", "random"]


def test_of_several_texts_each_says_which_it_is(loaded, ask):
    assert [sheet.title for sheet in written(loaded, ask(samples=2)).sheets] == ["text 1", "text 2"]
    titles = [sheet.title for sheet in written(loaded, ask(samples=2, unmasking="margin", rival="random")).sheets]
    assert titles == ["margin · text 1", "margin · text 2", "random · text 1", "random · text 2"]


def test_every_step_is_in_the_history(loaded, ask):
    desk = written(loaded, ask("One day"))
    history = desk.sheets[0].history
    assert [moment.step for moment in history.moments] == list(range(9))
    assert desk.last == 8
    assert history.is_finished


def test_stopped_nothing_more_is_computed_and_what_stands_stays(loaded, ask, calls, monkeypatch):
    monkeypatch.setattr("ddlm.ui.desk.FRAME_S", 0)
    desk = Desk()
    writing = desk.write(loaded, ask("One day", length=50, num_sampling_steps=50))
    for _ in range(4):
        next(writing)
    desk.stop()
    done, text = len(calls), texts(desk)
    list(writing)
    assert len(calls) == done
    assert texts(desk) == text
    assert 0 < desk.sheets[0].history.share(-1) < 1
    assert desk.sheets[0].history.is_finished


def test_a_visitor_who_leaves_costs_nothing_more(loaded, ask, calls, monkeypatch):
    monkeypatch.setattr("ddlm.ui.desk.FRAME_S", 0)
    desks = Desks(most=3)
    writing = desks.of("a").write(loaded, ask("One day", length=50, num_sampling_steps=50))
    next(writing)
    desks.leave("a")
    done = len(calls)
    list(writing)
    assert len(calls) == done


def test_whoever_stopped_the_last_text_did_not_mean_the_next(loaded, ask):
    desk = written(loaded, ask("One day"))
    desk.stop()
    assert desk.is_stopped
    desk.start()
    for _ in desk.write(loaded, ask("Two days")):
        pass
    assert desk.sheets[0].history.share(-1) == 1
    assert texts(desk)[0].startswith("Two days")


def test_a_text_that_leaves_no_room_is_refused_and_the_last_one_stays(loaded, ask):
    desk = written(loaded, ask("One day"))
    before = texts(desk)
    with pytest.raises(UserError, match=r"prompt: \d+ tokens, but the model writes 64 in all"):
        next(desk.write(loaded, ask("word " * 1000)))
    assert texts(desk) == before


def test_twenty_visitors_at_once_get_what_each_would_get_alone(loaded, ask):
    orders = [ask(f"Visitor {number} said", seed=number) for number in range(20)]
    desks = Desks(most=20)

    def visit(number):
        for _ in desks.of(str(number)).write(loaded, orders[number]):
            pass
        return texts(desks.of(str(number)))

    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(visit, range(20)))
    assert together == [texts(written(loaded, order)) for order in orders]
    assert len({tuple(each) for each in together}) == 20


def test_the_model_takes_one_step_at_a_time(loaded, ask, monkeypatch):
    inside, most, at = threading.Semaphore(1), [], loaded.pipeline.runner.at

    def watched(*given):
        most.append(inside.acquire(blocking=False))
        try:
            return at(*given)
        finally:
            inside.release()

    monkeypatch.setattr(loaded.pipeline.runner, "at", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: written(loaded, ask("One", seed=seed)), range(4)))
    assert all(most)
    assert len(most) > 20


def test_a_film_is_a_gif_of_all_steps(loaded, ask):
    desk = written(loaded, ask("One day", samples=2))
    film = Image.open(io.BytesIO(desk.film(1)))
    assert film.format == "GIF"
    assert film.n_frames >= 9
    assert desk.film(2) is None
    assert desk.film(-1) is None


def test_there_is_no_film_of_a_text_in_the_making_nor_of_masks_alone(loaded, ask, monkeypatch):
    monkeypatch.setattr("ddlm.ui.desk.FRAME_S", 0)
    desk = Desk()
    writing = desk.write(loaded, ask("One day"))
    next(writing)
    next(writing)
    assert desk.film(0) is None
    writing.close()
    assert desk.film(0)
    writing = desk.write(loaded, ask("One day"))
    next(writing)
    writing.close()
    assert desk.film(0) is None
    assert ".gif" not in sheets_html(desk.sheets)


def test_films_have_addresses_that_nobody_guesses(loaded, ask):
    desks = Desks(most=3)
    for name in ("a", "b"):
        for _ in desks.of(name).write(loaded, ask("One day")):
            pass
    tokens = {desks.of(name).token for name in ("a", "b")}
    assert len(tokens) == 2
    assert all(len(token) == 16 for token in tokens)
    assert desks.with_film(desks.of("a").token) is desks.of("a")
    assert desks.with_film("") is None


def test_of_too_many_visitors_the_longest_silent_one_is_forgotten():
    desks = Desks(most=2)
    first, second = desks.of("a"), desks.of("b")
    assert desks.of("a") is first
    desks.of("c")
    assert desks.of("a") is first
    assert desks.of("b") is not second
