"""The page in Debian's Chromium, with onnxruntime as npm brings it; texts against Python's onnxruntime."""

import shutil

import pytest

from ddlm.config import UserError
from ddlm.diffusion import SamplingConfig
from ddlm.export import ExportConfig
from ddlm.export.web import site, vendor
from ddlm.generation import words
from tests.chromium import needs_chromium
from tests.ddlm.export.page import in_node, library_on, needs_node, served, written_by

pytestmark = [
    pytest.mark.services,
    needs_chromium,
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed"),
]
GAPS = ["Lily had a ___[3].", "One day, a ___ went to the ___[2] and was very ______."]
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """npm's package, fetched once; DDLM_HOME is another for each test."""
    path = tmp_path_factory.mktemp("vendor") / "package.tgz"
    try:
        vendor.fetch(path)
    except UserError as error:
        if "could not bring" not in str(error):
            raise
        pytest.skip(str(error))
    return path


@pytest.fixture(scope="module")
def exported(runtime, pipeline, chat_pipeline, twin_pipeline, tmp_path_factory):
    """Pages of three models."""
    folder, models = tmp_path_factory.mktemp("pages"), {"story": pipeline, "chat": chat_pipeline, "twin": twin_pipeline}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vendor, "archive", lambda: runtime)
        settings = {"sampling": SamplingConfig(), "export": ExportConfig(), "rows": None, "seed": 0}
        for name, model in models.items():
            site.export_site(model, folder / name, title=name, **settings)
    return folder


@pytest.fixture(scope="module")
def library(exported, pipeline):
    """The library on the page's own graph: what a text has to be."""
    return library_on(exported / "story", pipeline)


@pytest.fixture(scope="module")
def address(exported):
    """The folder of all pages: each works from a sub-folder."""
    with served(exported) as (url, _):
        yield url


@pytest.fixture
def context(browser):
    """A visitor. What the console or the page complains of, and requests elsewhere, fail the test."""
    visitor = browser.new_context(viewport={"width": 1280, "height": 1000})
    visitor.set_default_timeout(WAIT_MS)
    yield visitor
    visitor.close()


@pytest.fixture
def page(context, address):
    return opened(context, f"{address}story/")


def opened(context, url):
    page, complaints = context.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: None if request.url.startswith(url) else complaints.append(request.url))
    page.complaints = complaints
    page.goto(url)
    ready(page)
    page.uncheck("#control-fresh")
    return page


def ready(page):
    page.locator("#write:enabled").wait_for()


def write(page, text, seed=0, **settings):
    """What stands on the sheet when it is finished."""
    begin(page, text, seed, **settings)
    ready(page)
    return story(page)


def begin(page, text, seed=0, **settings):
    page.fill("#text", text)
    for name, value in {"seed": seed, **settings}.items():
        control = page.locator(f"#control-{name}")
        control.select_option(value) if name in ("unmasking", "ends", "grid") else control.fill(str(value))
    page.click("#write")


def story(page):
    return page.locator("#story").text_content()


def error(page):
    return page.locator("#error").text_content()


SETTINGS = [
    {},
    {"unmasking": "random", "temperature": 1.0, "top_p": 1.0},
    {"unmasking": "margin", "num_sampling_steps": 7, "top_k": 20},
    {"unmasking": "entropy", "ends": "free", "grid": "cosine"},
    {"unmasking": "threshold", "threshold": 0.4, "ends": "last"},
    {"unmasking": "entropy_bound", "entropy_bound": 1.0},
    {"unmasking": "left_to_right", "temperature": 0.0},
    {"unmasking": "remdm_cap", "remask_share": 0.2, "num_sampling_steps": 12},
]


def test_a_text_is_what_python_writes_with_the_same_graph_seed_and_settings(page, library):
    for seed, settings in enumerate(SETTINGS * 2):
        prompt = ("", "One day 🙂", "The dog ")[seed % 3]
        wanted = library.generate(prompt, sampling=SamplingConfig(**settings), seed=seed).samples[0].text
        page.locator("#examples button").first.click()  # puts every setting back
        assert write(page, prompt, seed, **settings) == wanted, settings
        assert "100 % written" in page.locator("#counts").text_content()
    page.locator("#examples button").first.click()
    assert write(page, "One day", 2**65 + 3) == library.generate("One day", seed=2**65 + 3).samples[0].text
    assert page.complaints == []


def test_gaps_are_filled_as_the_library_fills_them(page, library):
    for seed, text in enumerate(GAPS * 2):
        assert write(page, text, seed) == library.infill(text, seed=seed).samples[0].text
    assert page.complaints == []


def test_an_exact_length_is_kept(page, library):
    assert write(page, "One day", 4, length=9) == library.generate("One day", length=9, seed=4).samples[0].text
    page.locator("#control-length").fill("31")
    page.click("#write")
    page.locator("#error:not(:empty)").wait_for()
    assert error(page).startswith("length 31: there is room for 1 to ")


@needs_node
@pytest.mark.parametrize(("name", "model"), [("chat", "chat_pipeline"), ("twin", "twin_pipeline")])
def test_models_of_other_kinds_write_what_python_does(request, exported, name, model):
    pipeline, page = request.getfixturevalue(model), exported / name
    asked = [("One day", 1), ("", 2), ("She", 3)]
    answers = in_node(
        *[("write", {"text": text, "seed": str(seed), "sampling": {}}) for text, seed in asked], site=page
    )
    wanted = [written_by(page, pipeline, text, seed).removesuffix("\n") for text, seed in asked]
    assert [answer["text"] for answer in answers] == wanted


def test_a_text_can_be_stopped_and_the_next_one_is_whole(page, library):
    begin(page, "", 1, num_sampling_steps=4000, unmasking="remdm_cap")
    page.locator(".new").first.wait_for()
    page.keyboard.press("Escape")
    ready(page)
    assert "Stopped." in page.locator("#status").text_content()
    assert "step 4000" not in page.locator("#counts").text_content()
    page.locator("#examples button").first.click()
    assert write(page, "One day", 2) == library.generate("One day", seed=2).samples[0].text


def test_the_page_answers_while_a_text_is_written(page):
    begin(page, "", 1, num_sampling_steps=4000, unmasking="remdm_cap")
    page.locator(".new").first.wait_for()
    assert (
        page.evaluate(
            "new Promise(done => { const t = performance.now(); setTimeout(() => done(performance.now() - t)); })"
        )
        < 500
    )
    assert page.locator("#write").is_disabled()
    page.click("#stop")
    ready(page)


def test_two_tabs_at_once_do_not_mix_their_texts(context, address, library):
    tabs = [opened(context, f"{address}story/") for _ in range(2)]
    prompts = ["One day", "The dog"]
    for seed, (tab, prompt) in enumerate(zip(tabs, prompts, strict=True)):
        begin(tab, prompt, seed)
    for seed, (tab, prompt) in enumerate(zip(tabs, prompts, strict=True)):
        ready(tab)
        assert story(tab) == library.generate(prompt, seed=seed).samples[0].text


def test_a_prompt_of_5000_characters_is_refused_in_one_line(page, tokenizer):
    text = "Once upon a time. " * 278
    size = len(tokenizer.encode(text[:-1]))  # its last space belongs to the word that follows
    page.fill("#text", text)
    page.locator("#text-size.over").wait_for()
    page.click("#write")
    page.locator("#error:not(:empty)").wait_for()
    line = f"the prompt has {size} tokens, but the model writes 32 in all; shorten it to at most 31 tokens"
    assert error(page) == line
    assert page.locator("#text").input_value() == text
    assert write(page, "a" * 31, 1)[:31] == "a" * 31


@pytest.mark.parametrize("prompt", ["<b>x</b>", "<script>evil()</script>", '<img src=x onerror="evil()">'])
def test_html_in_a_prompt_is_text(page, prompt):
    page.evaluate("void (window.evil = () => document.body.dataset.evil = 1)")
    assert write(page, prompt, 1).startswith(prompt)
    assert page.locator("#story :not(span)").count() == 0
    assert page.evaluate("document.body.dataset.evil") is None
    assert page.complaints == []


def test_a_script_that_gets_into_the_page_does_not_run(page):
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title = 1'}))"
    )
    assert page.title() == "Written in no particular order"
    assert any("Content Security Policy" in complaint for complaint in page.complaints)


def test_what_is_wrong_is_one_line_and_loses_nothing(page, library):
    write(page, "One day", 1)
    before = story(page)
    for name, value, line in (
        ("temperature", "hot", 'Temperature: got "hot", wanted a number, at least 0 and at most 100'),
        ("num_sampling_steps", "0", 'Steps: got "0", wanted a whole number, at least 1 and at most 4096'),
        ("num_sampling_steps", "2.5", 'Steps: got "2.5", wanted a whole number, at least 1 and at most 4096'),
        ("top_p", "0", 'Top-p: got "0", wanted a number, more than 0 and at most 1'),
        ("seed", "x", 'Seed: got "x", wanted a whole number, at least 0'),
        ("seed", "-4", 'Seed: got "-4", wanted a whole number, at least 0'),
    ):
        page.locator("#examples button").first.click()
        page.locator(f"#control-{name}").fill(value)
        page.click("#write")
        assert error(page) == line
        assert page.evaluate("document.activeElement.name") == name
        assert story(page) == before
        page.locator("#control-seed").fill("1")
    page.locator("#examples button").first.click()
    assert write(page, "One day", 1) == before
    assert error(page) == ""


def test_a_loaded_page_needs_no_server_and_a_new_one_works_when_it_is_back(context, exported, library):
    wanted = library.generate("One day", seed=5).samples[0].text
    with served(exported) as (url, port):
        page = opened(context, f"{url}story/")
    assert write(page, "One day", 5) == wanted
    context.set_offline(True)
    assert write(page, GAPS[0], 5) == library.infill(GAPS[0], seed=5).samples[0].text
    context.set_offline(False)
    with served(exported, port):
        page.reload()
        ready(page)
        page.uncheck("#control-fresh")
        assert write(page, "One day", 5) == wanted


def test_a_page_whose_network_did_not_come_can_try_again(context, exported, tmp_path, library):
    folder = tmp_path / "site"
    shutil.copytree(exported / "story", folder)
    graph = (folder / site.GRAPH).rename(tmp_path / "elsewhere")
    with served(folder) as (url, _):
        page = context.new_page()
        page.goto(url)
        page.click("#again", trial=True)
        assert error(page).startswith("data/model.onnx.gz can't be fetched; is the server there?")
        (folder / site.GRAPH).write_bytes(graph.read_bytes()[:-100])
        page.click("#again")
        page.get_by_text("data/model.onnx.gz is damaged or of another page").wait_for()
        graph.rename(folder / site.GRAPH)
        page.click("#again")
        ready(page)
        page.uncheck("#control-fresh")
        assert write(page, "One day", 5) == library.generate("One day", seed=5).samples[0].text
        assert error(page) == ""


def test_every_step_can_be_looked_at_again_and_the_text_be_copied(page, context):
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    whole = write(page, "One day", 3, num_sampling_steps=6)
    steps = int(page.locator("#moment").get_attribute("max"))
    assert 3 <= steps <= 6
    page.locator("#moment").fill("0")
    assert page.locator(".masked").count() > 10
    assert story(page) == "One day"
    assert "step 0 of" in page.locator("#counts").text_content()
    page.locator("#moment").fill(str(steps - 1))
    assert 0 < page.locator(".new").count() < len(whole)
    page.click("#replay")
    page.get_by_role("button", name="Replay", exact=True).wait_for()
    assert story(page) == whole
    page.click("#copy")
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == whole
    page.locator("#moment").fill("0")
    page.get_by_role("button", name="Copy", exact=True).click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "One day ___"


def test_a_new_seed_is_drawn_for_each_text_unless_it_is_kept(page):
    page.check("#control-fresh")
    seeds = set()
    for _ in range(3):
        page.click("#write")
        ready(page)
        seeds.add(page.locator("#control-seed").input_value())
    assert len(seeds) == 3


def test_only_settings_of_the_chosen_order_are_shown(page):
    shown = page.locator("#control-threshold")
    assert not shown.is_visible()
    page.select_option("#control-unmasking", "threshold")
    assert shown.is_visible()
    assert not page.locator("#control-entropy_bound").is_visible()


def test_unusual_orders_are_marked_and_each_says_what_it_does(page):
    groups = page.evaluate("""[...document.querySelectorAll("#control-unmasking optgroup")]
        .map((group) => [group.label, [...group.children].map((option) => option.value)])""")
    assert groups == [["experimental", [name for name in words.ORDERS if name not in words.USUAL]]]
    for name, sentence in words.ORDERS.items():
        page.select_option("#control-unmasking", name)
        assert page.locator("#help-unmasking").text_content() == sentence


def test_a_twins_page_says_that_it_writes_from_left_to_right_and_offers_no_order(context, address):
    page = opened(context, f"{address}twin/")
    assert page.locator("h1").text_content() == "Written from left to right"
    assert page.locator("#control-unmasking").count() == 0
    page.fill("#text", "One day")
    page.click("#write")
    ready(page)
    assert story(page).startswith("One day")


def test_examples_work(page):
    for number in range(page.locator("#examples button").count()):
        page.locator("#examples button").nth(number).click()
        page.click("#write")
        ready(page)
        assert "tokens" in error(page) or "100 % written" in page.locator("#counts").text_content()


def test_everything_can_be_reached_by_keyboard_and_has_a_name(page):
    names = page.evaluate("""[...document.querySelectorAll("button, input, select, textarea, progress, summary")]
        .filter((element) => !element.labels?.length && !element.ariaLabel && !element.textContent.trim())
        .map((element) => element.outerHTML)""")
    assert names == []
    page.focus("#text")
    page.keyboard.type("One day")
    page.keyboard.press("Control+Enter")
    ready(page)
    assert story(page).startswith("One day")
    page.focus("#control-seed")
    page.locator("#control-seed").fill("9")
    page.keyboard.press("Enter")
    ready(page)
    assert page.locator("#status").text_content().startswith("Finished: One day")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window_and_ink_stands_out_from_paper(browser, address, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = opened_narrow(context, f"{address}story/")
    page.fill("#text", "Donaudampfschifffahrtsgesellschaft" * 4)
    page.locator("#text-size.over").wait_for()
    page.click("#write")
    page.locator("#error:not(:empty)").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.fonts.check('16px \"ddlm serif\"')")
    paper, ink = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    assert abs(lightness(paper) - lightness(ink)) > 0.6
    assert (lightness(paper) > 0.5) == (scheme == "light")
    context.close()


def opened_narrow(context, url):
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(url)
    ready(page)
    return page


def lightness(color):
    red, green, blue = (int(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_who_wants_less_motion_gets_none(browser, address):
    context = browser.new_context(reduced_motion="reduce")
    page = opened_narrow(context, f"{address}story/")
    page.click("#write")
    page.locator(".new .ink").first.wait_for()
    assert page.evaluate("document.getAnimations().length") == 0
    ready(page)
    context.close()


def test_a_visit_to_the_page_is_small(exported):
    sizes = {path.name: path.stat().st_size for path in (exported / "story" / "vendor").iterdir()}
    assert sizes["ort-wasm-simd-threaded.wasm.gz"] < 3_000_000
    own = sum(path.stat().st_size for path in site.PAGE.iterdir())
    assert own < 80_000
