"""The page: self-contained, escaped, and saying what each number is."""

import re
from html.parser import HTMLParser

import pytest

from ddlm.evaluation import measures, plots, report
from ddlm.generation import Frame, Span

SCORES = {
    "nll_nats": 2.3456,
    "nll_nats_stderr": 0.0123,
    "bits_per_byte": 1.2345,
    "bits_per_byte_interval": (1.2, 1.3),
    "bound": "upper",
    "masked_accuracy": 0.3456,
    "seed_protocols": {"S3": {"loss": 3.21, "accuracy": 0.4}},
    "bleu": None,
    "self_bleu": 12.5,
    "lengths": {"samples": {"words": 80.0, "tokens": 120.0}, "data": {"words": 160.0, "tokens": 250.0}},
    "samples": [
        {"text": "A <b>fox</b> & a hen.", "ended": True, "longest_overlap_words": 7},
        {"text": "", "ended": True, "longest_overlap_words": 0},
    ],
    "copied": {
        "longest_overlap_words": 7,
        "longest_overlap_text": "there was a fox <i>",
        "mean_overlap_words": 5.5,
        "overlap_share": 0.06,
        "searched_stories": 20000,
    },
    "data": {"stories": 200, "rows": 256, "text_tokens": 25000, "text_bytes": 90000},
    "data_digest": "d" * 64,
    "model": "quick <1>",
    "settings": {"seed": 1, "stories": 200, "sampling": {"temperature": 0.8}},
    "infilling": {
        "examples": [{"before": "Once.", "original": " <middle>", "after": " End.", "model": " A", "twin": None}]
    },
    "minimal_pairs": {
        "chain_rule": {"overall": {"accuracy": 0.5}, "by_phenomenon": {"<kind>": {"accuracy": 0.5, "pairs": 4}}},
        "bound": None,
    },
    "provenance": {"git.commit": "abc", "device": "a CPU, 2 cores"},
}
FRAMES = [
    Frame(0, 2, (Span("██", "masked"),)),
    Frame(1, 2, (Span("<frame>", "new", 0.5), Span("█", "masked"))),
    Frame(2, 2, (Span("<frame>", "shown"), Span("end", "new", 0.9))),
]


class Balance(HTMLParser):
    """Opens and closes every tag in order."""

    VOID = {"meta", "img", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def images(tmp_path):
    curve = {"train/nll_nats": [(1, 7.0), (2, 6.0)], "val/nll_nats": [(2, 6.5)], "train/lr": [(1, 0.1)]}
    point = {"mask_rate": 0.5, "nll_nats": 1.0, "text_nats": 2.0}
    images = {name: tmp_path / f"{name}.png" for name in ("curve", "lengths", "mask_rates", "intervals")}
    plots.draw_curve(curve, images["curve"])
    plots.draw_lengths({"samples": ["a b", "a"], "validation stories": ["a b c " * 40]}, images["lengths"])
    plots.draw_mask_rates([point], images["mask_rates"])
    plots.draw_intervals({"bound": (1.2, (1.1, 1.3)), "twin": (1.0, (0.9, 1.1))}, images["intervals"])
    return images


def test_the_page_is_well_formed_and_loads_nothing_from_elsewhere(images):
    html = report.page(SCORES, [("Once", " <there> was", " upon a time")], ["A <story>."], images, FRAMES)
    page = Balance()
    page.feed(html)
    assert page.open == []
    assert len(page.sources) == 4
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in page.sources)
    assert "http" not in re.sub(r"base64,[^\"]+", "", html)


def test_text_is_escaped_wherever_it_comes_from(images):
    html = report.page(SCORES, [("<p1>", "<c1>", "<r1>")], ["<real>"], images, FRAMES)
    assert "A &lt;b&gt;fox&lt;/b&gt; &amp; a hen." in html
    for raw in ("<b>fox", "<i>", "<p1>", "<c1>", "<r1>", "quick <1>", "<real>", "<frame>", "<middle>", "<kind>"):
        assert raw not in html


def test_an_ellipsis_stands_behind_a_sample_that_the_canvas_cut_off(images):
    samples = [{**SCORES["samples"][0], "text": text, "ended": text == "It ran."} for text in ("It ran.", "It ate a")]
    html = report.page(SCORES | {"samples": samples}, [], [], images)
    assert "It ate a …" in html
    assert "It ran." in html
    assert "It ran. …" not in html


def test_scores_stand_beside_what_they_are_and_unmeasured_ones_get_no_row(images):
    html = report.page(SCORES, [], [], images)
    assert re.search(r'Bits per byte</th><td class="number">≤ 1\.234</td><td class="meaning">UPPER BOUND', html)
    assert "1.200 … 1.300" in html
    assert re.search(r'S3 protocol, loss</th><td class="number">3\.210</td><td class="meaning">UNWEIGHTED', html)
    assert "BLEU-4, continuations" not in html
    assert "Known words" not in html
    assert "first 20,000 training stories has 7 words" in html
    assert "there was a fox" in html
    assert "in their order above: 7, 0." in html


def test_without_a_training_corpus_nothing_is_said_about_copies(images):
    html = report.page({name: value for name, value in SCORES.items() if name != "copied"}, [], [], images)
    assert "copied" not in html.lower()


def test_equal_curves_give_equal_bytes_and_no_points_give_an_empty_plot(tmp_path):
    curve = {"train/nll_nats": [(1, 7.0), (2, 6.0)], "val/nll_nats": []}
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for path, points in zip(paths, (curve, curve, {}), strict=True):
        plots.draw_curve(points, path)
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        first, second, empty = (path.with_suffix(f".{kind}").read_bytes() for path in paths)
        assert first == second != empty
        assert empty.startswith(start)


def test_a_denoising_is_shown_from_its_first_state_to_its_last(images):
    html = report.page(SCORES, [], [], images, FRAMES)
    assert html.index("step 0 of 2") < html.index("step 1 of 2") < html.index("step 2 of 2")
    assert '<span class="masked">██</span>' in html
    many = [Frame(step, 100, (Span("word", "shown"),)) for step in range(101)]
    assert report.page(SCORES, [], [], images, many).count("<b>step ") == report.STRIP_STATES
    assert "comes to be" not in report.page(SCORES, [], [], images)


def test_real_stories_stand_beside_samples_and_beside_their_scores(images):
    judged = {"judge": {"samples": {"perplexity": 40.0, "entropy_nats": 3.9}, "stories": {"perplexity": 3.3}}}
    html = report.page(SCORES | judged, [], ["First story."], images)
    assert re.search(r"A real story</p><blockquote class=\"story\">First story", html)
    assert html.index("fox") < html.index("First story")
    assert re.search(r'perplexity</th><td class="number">40\.0</td><td class="beside">3\.3</td>', html)


def test_what_is_exact_is_not_called_a_bound(images):
    html = report.page(SCORES | {"bound": "exact"}, [], [], images)
    assert "EXACT negative log-likelihood" in html
    assert "UPPER BOUND on the negative" not in html
    assert "Monte-Carlo" not in html
    assert measures.headline(SCORES) == "at most 1.234 bits per byte on 200 stories (90,000 bytes, digest dddddddd)"
    assert (
        measures.headline(SCORES | {"bound": "exact"})
        == "exactly 1.234 bits per byte on 200 stories (90,000 bytes, digest dddddddd)"
    )


def test_every_measure_has_a_sentence_and_headlines_name_measures():
    known = measures.LIKELIHOOD + measures.TEXT
    assert all(measure.meaning.strip().endswith((".", "best.")) for measure in known)
    assert set(measures.HEADLINES) <= {measure.path for measure in known}
    assert ("Bits per byte", "≤ 1.234") in measures.headlines(SCORES)


def test_every_monte_carlo_figure_of_the_summary_is_shown_with_its_error():
    errors = {"masked_accuracy_stderr": 0.004, "bits_per_byte_stderr": 0.02, "twin": {"gap_bits_per_byte": 0.1234}}
    shown = dict(measures.headlines(SCORES | errors))
    assert shown["Masked accuracy"] == "35 ± 0.4 %"
    assert shown["… gap to it"] == "+0.1 ± 0.02"


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (165.4, 12.3, "165 ± 12"),
        (165.4, 0.3, "165 ± 0.3"),
        (1.38912, 0.0062, "1.39 ± 0.006"),
    ],
)
def test_an_error_is_written_as_people_write_it(value, error, shown):
    assert measures.with_error("{:.3f}", value, error) == shown


def test_the_text_is_named_where_its_name_is_known():
    named = SCORES | {"data": SCORES["data"] | {"name": "a <corpus>"}}
    assert measures.measured_on(named) == "200 stories of a <corpus> (90,000 bytes, digest dddddddd)"
    assert "measured on 200 stories of a &lt;corpus&gt; (90,000 bytes" in report.page(named, [], [], {})


def test_numbers_are_named_by_where_they_stand_and_settings_are_none() -> None:
    scores = {"a": 1, "b": {"c": 0.5, "d": "x"}, "e": [1], "f": True, "g": None, "settings": {"stories": 8}}
    assert measures.numbers_of(scores) == {"evaluation/a": 1.0, "evaluation/b/c": 0.5}
