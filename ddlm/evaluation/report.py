"""report.html: one self-contained page with every score, what it means, samples and curves."""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Points = list[tuple[float, float]]
COLOURS = ("#2a6f97", "#c1666b")
CURVES = {"train/nll_nats": "training", "val/nll_nats": "validation"}

STYLE = """
body { max-width: 60rem; margin: 2.5rem auto; padding: 0 1.25rem; color: #1d2733; background: #fff;
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .45rem .8rem .45rem 0; border-bottom: 1px solid #dde3ea; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; font-weight: 600; }
td.meaning, figcaption, .quiet { color: #55616e; font-size: .9rem; }
blockquote { margin: .8rem 0; padding: .7rem 1rem; background: #f5f7f9; border-left: 3px solid #2a6f97;
  white-space: pre-wrap; }
blockquote.story { border-color: #c1666b; }
.pair { display: grid; gap: 0 1rem; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
""".strip()

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>ddlm report</title>
<style>
$style
</style>
</head>
<body>
$body
</body>
</html>
""")


@dataclass(frozen=True)
class Score:
    """A row of the table. path: where the number stands in the scores. meaning: what it is, in a sentence."""

    path: str
    label: str
    pattern: str
    meaning: str


SCORES = (
    Score(
        "bits_per_byte",
        "Bits per byte",
        "{:.3f}",
        "UPPER BOUND on the negative log-likelihood, for each UTF-8 byte of text; comparable between tokenizers. "
        "Lower is better.",
    ),
    Score(
        "bits_per_byte_interval",
        "… 95 % interval",
        "{0[0]:.3f} … {0[1]:.3f}",
        "Bootstrap over stories: how far other stories of the same kind would move the bound.",
    ),
    Score(
        "nll_nats",
        "Nats per token",
        "{:.3f}",
        "The same UPPER BOUND for each token of text; comparable only between models with the same tokenizer. Every "
        "position of a row is predicted, its tail too.",
    ),
    Score(
        "nll_nats_stderr",
        "… Monte-Carlo error",
        "± {:.4f}",
        "Standard error: how far other random masks on the same stories would move it.",
    ),
    Score(
        "masked_accuracy",
        "Masked accuracy",
        "{:.1%}",
        "UNWEIGHTED: masked text tokens that the most likely token hits, at mask rates from almost none to all.",
    ),
    Score(
        "seed_protocols.S3.loss",
        "S3 protocol, loss",
        "{:.3f}",
        "UNWEIGHTED mean cross-entropy in nats of masked tokens at cosine mask rates, with the story's length given. "
        "No bound; only for comparison with numbers made in this way.",
    ),
    Score("seed_protocols.S3.accuracy", "S3 protocol, accuracy", "{:.1%}", "Accuracy under the same protocol."),
    Score(
        "bleu",
        "BLEU-4, continuations",
        "{:.2f}",
        "Continuations of story beginnings against the true ones; 0 to 100.",
    ),
    Score("bleu_free", "BLEU-4, free samples", "{:.2f}", "Free samples against random validation stories; 0 to 100."),
    Score("self_bleu", "Self-BLEU", "{:.2f}", "Each free sample against the others; 100: they are all the same."),
    Score("distinct_1", "Distinct words", "{:.1%}", "Different words among all words of the free samples."),
    Score("distinct_2", "Distinct word pairs", "{:.1%}", "The same for pairs of words."),
    Score(
        "word_validity",
        "Known words",
        "{:.1%}",
        "Words of the free samples that occur in the training stories that were searched.",
    ),
    Score(
        "copied.longest_overlap_words",
        "Longest copied run",
        "{:d} words",
        "The longest run of words that a free sample shares with one training story.",
    ),
    Score(
        "copied.overlap_share",
        "Longest copied runs, share",
        "{:.1%}",
        "The words in the free samples' longest such runs, as a share of all their words.",
    ),
    Score("lengths.samples.words", "Words a sample", "{:.1f}", "Mean over the free samples."),
    Score(
        "lengths.data.words",
        "Words a validation story",
        "{:.1f}",
        "Mean over whole stories; a row of the model may hold only the beginning.",
    ),
)
"""A score that was not measured gets no row."""


def page(scores: Mapping[str, Any], continued: Sequence[tuple[str, str, str]], images: Mapping[str, Path]) -> str:
    """The whole report. continued: prompt, the model's continuation, the story's own. images: `curve` and `lengths`."""
    parts = [
        "<h1>How good is this model?</h1>",
        _about(scores),
        _score_table(scores),
        "<h2>Training curve</h2>",
        _image(images["curve"], "Nats per token of text at each optimizer step."),
        "<h2>Free samples</h2>",
        *(_quote(sample["text"]) for sample in scores["samples"]),
        _copied(scores),
        "<h2>Lengths</h2>",
        _image(images["lengths"], "Words in each text."),
        "<h2>Continuations</h2>",
        *(_continuation(*texts) for texts in continued),
        "<h2>Settings</h2>",
        _settings(scores["settings"]),
    ]
    return PAGE.substitute(style=STYLE, body="\n".join(part for part in parts if part))


def draw_curve(curve: Mapping[str, Points], path: Path) -> None:
    """Training and validation nats per token over steps, as PNG."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for colour, (name, label) in zip(COLOURS, CURVES.items(), strict=True):
        steps, values = zip(*curve.get(name) or [(math.nan, math.nan)], strict=True)
        axes.plot(steps, values, color=colour, label=label, marker="o", markersize=3)
    _label(axes, "optimizer step", "nats per token")
    _save(figure, path)


def draw_lengths(texts: Mapping[str, Sequence[str]], path: Path) -> None:
    """How many words the texts of each kind have, as PNG: shares, since there are more stories than samples."""
    counts = {name: [len(text.split()) for text in group] for name, group in texts.items()}
    longest = max(max(numbers, default=0) for numbers in counts.values())
    width = max(1, -(-(longest + 1) // 30))
    bins = range(0, longest + width + 1, width)
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    for colour, (name, numbers) in zip(COLOURS, counts.items(), strict=True):
        weights = [1 / len(numbers)] * len(numbers)
        axes.hist(numbers, bins=list(bins), weights=weights, color=colour, alpha=0.6, label=name)
    _label(axes, "words", "share of the texts")
    _save(figure, path)


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _save(figure: Figure, path: Path) -> None:
    """No software version in the file: equal curves give equal bytes."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _about(scores: Mapping[str, Any]) -> str:
    data, digest, model = scores["data"], escape(scores["data_digest"]), escape(scores["model"])
    return (
        f"<p>Measured on {data['stories']:,} validation stories: {data['rows']:,} rows, {data['text_tokens']:,} tokens "
        f"and {data['text_bytes']:,} bytes of text.</p>"
        f'<p class="quiet">Evaluation text: sha256 {digest}<br>Model: {model}</p>'
    )


def _score_table(scores: Mapping[str, Any]) -> str:
    return _table(
        f'<th>{score.label}</th><td class="number">{score.pattern.format(value)}</td>'
        f'<td class="meaning">{score.meaning}</td>'
        for score in SCORES
        if (value := _at(scores, score.path)) is not None
    )


def _copied(scores: Mapping[str, Any]) -> str:
    copied = scores.get("copied")
    if copied is None:
        return ""
    runs = ", ".join(str(sample["longest_overlap_words"]) for sample in scores["samples"])
    return (
        "<h2>How much is copied</h2>"
        f"<p>The longest run of words that a free sample shares with one of the first {copied['searched_stories']:,} "
        f"training stories has {copied['longest_overlap_words']} words; the mean over the samples is "
        f"{copied['mean_overlap_words']:.1f} words. Such runs hold {copied['overlap_share']:.1%} of all words of the "
        f"samples. Case and punctuation are ignored.</p>{_quote(copied['longest_overlap_text'])}"
        f'<p class="quiet">Words in the longest run of each sample, in their order above: {runs}.</p>'
    )


def _continuation(prompt: str, continuation: str, reference: str) -> str:
    columns = {"model": continuation, "story": reference}
    pair = "".join(f"<div>The {kind}:{_quote(text, kind)}</div>" for kind, text in columns.items())
    return f'<p><b>{escape(prompt)}</b></p><div class="pair">{pair}</div>'


def _settings(settings: Mapping[str, Any]) -> str:
    flat = {**settings, **settings["sampling"]}
    del flat["sampling"]
    return _table(f"<th>{escape(name)}</th><td>{escape(str(value))}</td>" for name, value in flat.items())


def _table(rows: Iterable[str]) -> str:
    return "<table>\n" + "\n".join(f"<tr>{row}</tr>" for row in rows) + "\n</table>"


def _quote(text: str, kind: str = "model") -> str:
    return f'<blockquote class="{kind}">{escape(text.strip()) or "(nothing)"}</blockquote>'


def _image(path: Path, caption: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def _at(scores: Mapping[str, Any], path: str) -> Any:
    value: Any = scores
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
