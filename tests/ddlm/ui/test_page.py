"""The page in Debian's Chromium, as visitors use it."""

import io
import re
import signal
import time

import pytest
from PIL import Image

from ddlm.diffusion import SamplingConfig
from tests.chromium import needs_chromium
from tests.ddlm.ui.serving import proxied, serving

pytestmark = [pytest.mark.services, needs_chromium]
WAIT_MS = 60_000
LONG = {"length": 8000, "steps": 500}
"""A text that takes long enough to be looked at and stopped."""


@pytest.fixture
def visit(browser, server):
    """Opens the page for one more visitor. Errors on the page and requests elsewhere fail the test."""
    visitors = []

    def opened(address=server.address, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(WAIT_MS)
        page, page_complaints = context.new_page(), []
        page.on("pageerror", lambda error: page_complaints.append(str(error)))
        page.on("dialog", lambda dialog: page_complaints.append(dialog.message))
        page.on("request", lambda request: check(request.url))

        def check(url):
            if not url.startswith((address, "data:", "blob:")):
                page_complaints.append(url)

        page.complaints = page_complaints
        page.goto(address)
        page.locator("#facts p").wait_for()
        page.get_by_label("A new seed for each text").uncheck()
        visitors.append((context, page_complaints))
        return page

    yield opened
    for context, complaints in visitors:
        context.close()
        assert complaints == []


def begin(page, text, length=None, steps=8):
    page.locator("#text textarea").fill(text)
    page.get_by_label("number input for Steps").fill(str(steps))
    page.locator("#length input").fill(str(length or ""))
    page.locator("#write").click()
    page.locator("#write:disabled").wait_for()


def ready(page):
    page.locator("#write:enabled").wait_for()


def write(page, text, **options):
    begin(page, text, **options)
    ready(page)
    return story(page)


def story(page, number=0):
    return page.locator(".story").nth(number).text_content()


def status(page):
    return page.locator("#status").inner_text().strip()


def step(page):
    return int(re.search(r"step (\d+)", page.locator(".counts").first.inner_text())[1])


def made(loaded, text, **options):
    """What the pipeline writes; a browser takes a carriage return for a line's end."""
    sampling = SamplingConfig(num_sampling_steps=8)
    return loaded.pipeline.generate(text, sampling=sampling, **options).samples[0].text.replace("\r", "\n")


def test_a_text_is_written_and_is_the_pipelines_own(visit, loaded):
    page = visit()
    assert write(page, "One day") == made(loaded, "One day")
    assert re.fullmatch(r"Finished, [\d,.]+ tokens a second", status(page))
    assert page.locator(".counts").inner_text() == "step 8 of 8 · 100 % unmasked"


def test_it_is_seen_being_written(visit):
    page = visit()
    begin(page, "One day", **LONG)
    page.locator(".new.age-0").first.wait_for()
    first = step(page)
    page.wait_for_function(f"parseInt(document.querySelector('.counts').textContent.split(' ')[1]) > {first + 20}")
    assert page.locator(".story i").count()
    assert re.fullmatch(r"[\d,.]+ tokens a second", status(page))
    page.locator("#stop").click()
    ready(page)


def test_stop_stops_the_computation_and_keeps_what_stands(visit, server):
    page = visit()
    begin(page, "One day", **LONG)
    page.locator(".new").first.wait_for()
    page.locator("#stop").click()
    ready(page)
    assert status(page) == "Stopped"
    page.wait_for_timeout(500)
    text, before = story(page), server.cpu_s()
    assert text.startswith("One day")
    page.wait_for_timeout(1500)
    assert server.cpu_s() - before < 0.4
    assert story(page) == text
    assert write(page, "Two days").startswith("Two days")


def test_nothing_is_computed_for_a_visitor_who_left(visit, server):
    page = visit()
    begin(page, "One day", **LONG)
    page.locator(".new").first.wait_for()
    page.context.close()
    time.sleep(1)
    before = server.cpu_s()
    time.sleep(1.5)
    assert server.cpu_s() - before < 0.4


def test_escape_stops_and_control_enter_writes(visit):
    page = visit()
    page.locator("#text textarea").fill("One day")
    page.get_by_label("number input for Steps").fill("500")
    page.locator("#length input").fill("8000")
    page.locator("#text textarea").press("Control+Enter")
    page.locator("#stop:enabled").wait_for()
    page.locator(".new").first.wait_for()
    page.keyboard.press("Escape")
    ready(page)
    assert status(page) == "Stopped"


@pytest.mark.parametrize("text", ["The dog ___ to the ___[3].", "The dog ________ to the park."])
def test_gaps_are_filled_and_the_rest_stays(visit, loaded, text):
    page = visit()
    meant = text.replace("________", "___")
    filled = loaded.pipeline.infill(meant, sampling=SamplingConfig(num_sampling_steps=8)).samples[0].text
    assert write(page, text) == filled


def test_the_examples_work(visit):
    page = visit()
    page.get_by_label("number input for Steps").fill("4")
    for name in ("A beginning", "Gaps", "An end", "Two orders, one seed"):
        page.get_by_role("button", name=name).click()
        page.wait_for_timeout(300)
        page.locator("#write").click()
        page.locator("#write:disabled").wait_for()
        ready(page)
        assert status(page).startswith("Finished"), name
    assert page.locator(".sheet h3").all_inner_texts() == [SamplingConfig().unmasking, "left to right"]


def test_two_orders_stand_side_by_side(visit):
    page = visit()
    choose(page, "Compare with", "confidence")
    write(page, "One day")
    left, right = (page.locator(".sheet").nth(number).bounding_box() for number in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    assert story(page, 0) != story(page, 1)


def choose(page, label, name):
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=name, exact=True).click()


def test_only_what_suits_the_order_is_shown(visit):
    page = visit()
    assert page.locator("#control-threshold").count() == 0 or not page.locator("#control-threshold").is_visible()
    choose(page, "Order", "threshold · experimental")
    page.locator("#control-threshold").wait_for()
    page.locator("#control-unmasking").get_by_text("Every place at once").wait_for()
    page.locator("#control-threshold input, #control-threshold textarea").fill("1.5")
    begin(page, "One day")
    ready(page)
    assert "sampling.threshold: Input should be less than 1" in status(page)


def test_the_history_is_gone_through_with_a_slider(visit):
    page = visit()
    whole = write(page, "One day")
    slider = page.locator("#moment input[type=range]")
    slider.wait_for()
    assert slider.get_attribute("max") == "8"
    slider.fill("3")
    page.get_by_text("step 3 of 8").wait_for()
    assert page.locator(".story .hidden").count() > 3
    assert story(page) == whole
    slider.fill("8")
    page.get_by_text("step 8 of 8").wait_for()
    assert page.locator(".story .hidden").count() == 0


def test_a_text_is_copied_and_what_is_still_hidden_is_a_gap(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    whole = write(page, "One day")
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == whole
    page.locator("#moment input[type=range]").fill("0")
    page.get_by_text("step 0 of 8").wait_for()
    page.get_by_role("button", name="Copy", exact=True).click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "One day ___"


def test_the_film_is_downloaded(visit):
    page = visit()
    write(page, "One day")
    with page.expect_download() as download:
        page.get_by_role("link", name="GIF").click()
    assert download.value.suggested_filename == "ddlm.gif"
    film = Image.open(io.BytesIO(download.value.path().read_bytes()))
    assert (film.format, film.n_frames >= 9) == ("GIF", True)


def test_two_visitors_at_once_do_not_see_each_others_texts(visit, loaded):
    one, two = visit(), visit()
    begin(one, "One day")
    begin(two, "Two cats")
    ready(one)
    ready(two)
    assert story(one) == made(loaded, "One day")
    assert story(two) == made(loaded, "Two cats")
    one.locator("#moment input[type=range]").fill("4")
    one.get_by_text("step 4 of 8").wait_for()
    assert story(one) == made(loaded, "One day")


def test_a_text_of_5000_characters(visit, loaded):
    page, text = visit(), ("word " * 1000).strip()
    begin(page, text)
    ready(page)
    assert re.match(r"prompt: [\d,]+ tokens, but the model writes 64 in all; shorten it", status(page))
    assert page.locator("#status .error").count() == 1
    assert write(page, text, length=12) == made(loaded, text, length=12)


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert('heard')</script> said", "<img src=x onerror=alert(1)>", "<b>bold</b> & &lt;i&gt; {{7*7}}",
        "</div></article><h1>big</h1>",
    ],
)  # fmt: skip
def test_markup_is_shown_as_text(visit, loaded, text):
    page = visit()
    assert write(page, text, length=8) == made(loaded, text, length=8)
    assert page.locator("#sheets :is(script, img, b:not(.rule b), h1)").count() == 0


def test_another_model_is_chosen(visit):
    page = visit()
    choose(page, "Model", "fox")
    page.locator("#facts p").wait_for()
    assert "64 tokens · cpu, float32" in page.locator("#facts").inner_text()
    assert write(page, "One day").startswith("One day")


def test_visitors_wait_in_line_and_too_many_are_told(visit):
    *pages, last = [visit() for _ in range(6)]
    for page in pages:  # two are written for, three wait
        begin(page, "One day", **LONG)
    for page, before in zip(pages[2:], (1, 2, 3), strict=True):
        page.get_by_text(f"Waiting, {before} before you").wait_for()
    begin(last, "One day")
    ready(last)
    assert status(last) == "too many visitors: 3 wait already; try again in a moment"
    pages[3].locator("#stop").click()
    ready(pages[3])
    pages[4].get_by_text("Waiting, 2 before you").wait_for()
    for page in (pages[0], pages[1], pages[2], pages[4]):
        page.locator("#stop").click()
        ready(page)
    assert [status(page) for page in pages] == ["Stopped"] * 5


def test_the_server_is_killed_and_comes_back(visit, home_of_two, tmp_path):
    with serving(home_of_two, tmp_path, "--port", "0", "--max-length", "8000") as server:
        port = server.address.rpartition(":")[2]
        page = visit(server.address)
        begin(page, "One day", **LONG)
        page.locator(".new").first.wait_for()
        server.end(signal.SIGKILL)
    page.get_by_text("Connection to the server was lost").wait_for()
    with serving(home_of_two, tmp_path, "--port", port):
        ready(page)  # it loads itself again
        page.locator("#facts p").wait_for()
        page.wait_for_function("document.querySelector('#text textarea').value == 'One day'")
        assert write(page, "Two days").startswith("Two days")


def test_a_server_that_dies_while_the_page_is_idle_is_said_and_nothing_is_lost(visit, home_of_two, tmp_path):
    with serving(home_of_two, tmp_path, "--port", "0") as server:
        page = visit(server.address)
        page.locator("#text textarea").fill("One day")
        page.get_by_label("number input for Steps").fill("7")
        page.locator("#length input").fill("40")
        choose(page, "Model", "fox")
        choose(page, "Order", "threshold · experimental")
        page.locator("#control-threshold").wait_for()
        server.end(signal.SIGKILL)
    page.get_by_text("The server does not answer").wait_for()
    with serving(home_of_two, tmp_path, "--port", str(server.port)):
        page.locator("#away").wait_for(state="detached")
        page.locator("#control-threshold").wait_for()
        assert page.locator("#text textarea").input_value() == "One day"
        assert page.get_by_label("number input for Steps").input_value() == "7"
        assert page.locator("#length input").input_value() == "40"
        page.wait_for_function("document.querySelector('#model input').value == 'fox'")
        assert not page.get_by_label("A new seed for each text").is_checked()


def test_it_works_below_a_path_of_a_proxy(visit, home_of_two, tmp_path, loaded):
    below = ("--port", "0", "--root-path", "/some/ddlm/")
    with serving(home_of_two, tmp_path, *below) as server, proxied(server.port, "/some/ddlm") as address:
        page = visit(address)
        assert write(page, "One day") == made(loaded, "One day")
        with page.expect_download():
            page.get_by_role("link", name="GIF").click()


def test_of_gaps_whose_lengths_are_tried_no_speed_is_said(visit):
    page = visit()
    write(page, "The dog ___ to the park.")
    assert re.fullmatch(r"Finished: of \d+ lengths the likeliest", status(page))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_window_in_both_colour_schemes(visit, scheme, width):
    page = visit(color_scheme=scheme, viewport={"width": width, "height": 900})
    choose(page, "Compare with", "confidence")
    write(page, "One day " + "x" * 60)
    page.get_by_text("More", exact=True).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.querySelector('.gradio-container')).backgroundColor")
    luminance = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert (luminance > 200) == (scheme == "light")
    assert page.evaluate("document.fonts.check('16px \"ddlm serif\"')")
    small = page.evaluate("[...document.querySelectorAll('#actions button')].filter(b => b.offsetHeight < 32).length")
    assert small == 0
