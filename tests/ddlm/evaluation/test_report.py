"""The page: self-contained, escaped, and saying what each number is."""

import re
from html.parser import HTMLParser

import pytest

from ddlm.evaluation import report

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
        {"text": "A <b>fox</b> & a hen.", "longest_overlap_words": 7},
        {"text": "", "longest_overlap_words": 0},
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
}


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
    report.draw_curve(curve, tmp_path / "curve.png")
    report.draw_lengths({"samples": ["a b", "a"], "validation stories": ["a b c " * 40]}, tmp_path / "lengths.png")
    return {name: tmp_path / f"{name}.png" for name in ("curve", "lengths")}


def test_the_page_is_well_formed_and_loads_nothing_from_elsewhere(images):
    html = report.page(SCORES, [("Once", " <there> was", " upon a time")], images)
    page = Balance()
    page.feed(html)
    assert page.open == []
    assert len(page.sources) == 2
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in page.sources)
    assert "http" not in re.sub(r"base64,[^\"]+", "", html)


def test_text_is_escaped_wherever_it_comes_from(images):
    html = report.page(SCORES, [("<p1>", "<c1>", "<r1>")], images)
    assert "A &lt;b&gt;fox&lt;/b&gt; &amp; a hen." in html
    for raw in ("<b>fox", "<i>", "<p1>", "<c1>", "<r1>", "quick <1>"):
        assert raw not in html


def test_scores_stand_beside_what_they_are_and_unmeasured_ones_get_no_row(images):
    html = report.page(SCORES, [], images)
    assert re.search(r'Bits per byte</th><td class="number">1\.234</td><td class="meaning">UPPER BOUND', html)
    assert "1.200 … 1.300" in html
    assert re.search(r'S3 protocol, loss</th><td class="number">3\.210</td><td class="meaning">UNWEIGHTED', html)
    assert "BLEU-4, continuations" not in html
    assert "Known words" not in html
    assert "first 20,000 training stories has 7 words" in html
    assert "there was a fox" in html
    assert "in their order above: 7, 0." in html


def test_without_a_training_corpus_nothing_is_said_about_copies(images):
    html = report.page({name: value for name, value in SCORES.items() if name != "copied"}, [], images)
    assert "copied" not in html.lower()


def test_equal_curves_give_equal_bytes_and_no_points_give_an_empty_plot(tmp_path):
    curve = {"train/nll_nats": [(1, 7.0), (2, 6.0)], "val/nll_nats": []}
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for path, points in zip(paths, (curve, curve, {}), strict=True):
        report.draw_curve(points, path)
    first, second, empty = (path.read_bytes() for path in paths)
    assert first == second != empty
    assert empty.startswith(b"\x89PNG")
