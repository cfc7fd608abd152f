"""report.html: one self-contained page with every score, what it means, texts and pictures."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from ddlm.evaluation.measures import LIKELIHOOD, TEXT, Measure, chosen, measured_on, rows
from ddlm.evaluation.verdict import verdict
from ddlm.generation import Frame, with_ellipsis

LABELS = {"model": "The model", "story": "A real story"}
SHOWN = 5
"""Samples that are not folded away."""
STRIP_STATES = 6
"""States of the denoising that are shown, the first and the last among them."""

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1d2733, #dfe6ee); --quiet: light-dark(#55616e, #9aa7b5);
  --rule: light-dark(#dde3ea, #34404d); --page: light-dark(#fff, #14191f); --box: light-dark(#f5f7f9, #1d252e);
  --new: light-dark(#cfe3ef, #264a5f); --masked: light-dark(#b4bec9, #566270); --model: light-dark(#2a6f97, #6db3d9);
  --story: light-dark(#a3484e, #d98a8f); }
body { max-width: 62rem; margin: 2.5rem auto; padding: 0 1.25rem; color: var(--ink); background: var(--page);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .45rem .8rem .45rem 0; border-bottom: 1px solid var(--rule); }
thead th { color: var(--quiet); font-size: .9rem; font-weight: 500; white-space: nowrap; }
tbody th { width: 26%; font-weight: 500; } td.number { white-space: nowrap; font-variant-numeric: tabular-nums;
  font-weight: 600; } td.beside { white-space: nowrap; font-variant-numeric: tabular-nums; }
td.meaning, figcaption, .quiet { color: var(--quiet); font-size: .9rem; }
blockquote { margin: .8rem 0; padding: .7rem 1rem; background: var(--box); border-left: 3px solid var(--model);
  white-space: pre-wrap; }
blockquote.story { border-color: var(--story); }
.label { margin: .8rem 0 0; font-size: .85rem; font-weight: 600; color: var(--model); }
.label.story { color: var(--story); }
.verdict { font-size: 1.1rem; } details { margin: .6rem 0; } summary { cursor: pointer; padding: .3rem 0;
  font-weight: 600; }
.pair { display: grid; gap: 0 1rem; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); }
.strip { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
.strip div { padding: .7rem .9rem; background: var(--box); font-size: .82rem; line-height: 1.45; max-height: 22rem;
  overflow: hidden; } .strip b { display: block; color: var(--quiet); font-weight: 500; }
.masked { color: var(--masked); } .new { background: var(--new); } .prompt { color: var(--quiet); }
mark { background: var(--new); color: inherit; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; background: #fff; }
@media (max-width: 34rem) { tr.score { display: grid; grid-template-columns: 1fr auto auto; }
  tr.score > * { border: 0; width: auto; } tr.score { border-bottom: 1px solid var(--rule); }
  tr.score .meaning { grid-column: 1 / -1; padding-top: 0; } thead { display: none; } }
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

CAPTIONS = {
    "intervals": "Bits per byte with 95 % intervals over stories. A bound is an average over all orders of writing.",
    "mask_rates": "What a masked token costs: with little masked its neighbours tell it, with all masked nothing does.",
    "calibration": "Where the dots lie below the line the model is surer than it is right.",
    "order": "When each position of one text was written, and how sure the model was of it.",
    "latency": "Quality against speed, on the machine named below: each curve goes from few steps to many.",
    "frontier": "Quality against variety, and against cost. A point is one way of writing; towards the real stories is "
    "better, and low perplexity with low entropy is repetition.",
    "curve": "Nats per token of text at each optimizer step.",
    "lengths": "Words in each text; the model's texts end with its row.",
}


def page(
    scores: Mapping[str, Any],
    continued: Sequence[tuple[str, str, str]],
    stories: Sequence[str],
    images: Mapping[str, Path],
    strip: Sequence[Frame] = (),
) -> str:
    """The whole report.

    continued: prompt, the model's continuation, the story's own. stories: real ones, to stand beside the samples.
    images: by the names in `CAPTIONS`, those that there are. strip: the frames of one denoising.
    """
    pairs = list(_beside(scores["samples"], stories))
    parts = [
        "<h1>How good is this model?</h1>",
        _lines('<ul class="verdict">', *(f"<li>{escape(sentence)}</li>" for sentence in verdict(scores)), "</ul>"),
        _about(scores),
        _section("In numbers", _table(scores, chosen((*LIKELIHOOD, *TEXT)))),
        _section("What it writes", *pairs[:SHOWN]),
        _section("A text comes to be", _strip(strip)),
        "<h2>Everything that was measured</h2>",
        _folded("More samples", *pairs[SHOWN:]),
        _folded("How likely it finds real stories", _table(scores, LIKELIHOOD), _image(images, "intervals")),
        _folded("By the share that is masked", _image(images, "mask_rates")),
        _folded("As sure as it should be", _image(images, "calibration")),
        _folded("How it writes", _table(scores, TEXT)),
        _folded("Ways of writing", _image(images, "frontier"), _image(images, "latency")),
        _folded("In which order a text was written", _image(images, "order")),
        _folded("How much is copied", _copied(scores)),
        _folded("Continuations", *(_continuation(*texts) for texts in continued)),
        _folded("A sentence in the middle", *_infilled(scores.get("infilling"))),
        _folded("Minimal pairs", _pairs(scores.get("minimal_pairs"))),
        _folded("Lengths", _image(images, "lengths"), _longest(scores)),
        _folded("Training", _image(images, "curve")),
        _folded("Settings", _pairs_of({**scores["settings"], **scores["settings"]["sampling"]})),
        _folded("Where it was measured", _pairs_of(scores.get("provenance", {}))),
    ]
    return PAGE.substitute(style=STYLE, body="\n".join(part for part in parts if part))


def _section(title: str, *content: str) -> str:
    """Nothing where there is nothing to show."""
    body = "\n".join(part for part in content if part)
    return f"<h2>{title}</h2>\n{body}" if body else ""


def _folded(title: str, *content: str) -> str:
    """The same behind its title."""
    body = "\n".join(part for part in content if part)
    return f"<details><summary>{title}</summary>\n{body}\n</details>" if body else ""


def _longest(scores: Mapping[str, Any]) -> str:
    most = scores["settings"].get("seq_len")
    return (
        f'<p class="quiet">A row of the model holds {most} tokens at most; stories are shown whole.</p>' if most else ""
    )


def _about(scores: Mapping[str, Any]) -> str:
    data, digest, model = scores["data"], escape(scores["data_digest"]), escape(scores["model"])
    text = escape(measured_on(scores))
    kind = "A masked diffusion model" if scores["bound"] == "upper" else "An autoregressive model"
    return (
        f"<p>{kind}, measured on {text}: {data['rows']:,} rows and {data['text_tokens']:,} tokens. "
        "Figures on another text don't compare with these.</p>"
        f'<p class="quiet">Evaluation text: sha256 {digest}<br>Model: {model}</p>'
    )


def _table(scores: Mapping[str, Any], measures: tuple[Measure, ...]) -> str:
    found = list(rows(scores, measures))
    has_stories = any(beside for _, _, beside, _ in found)
    head = "<thead><tr><th></th><th>this model</th>" + "<th>real stories</th>" * has_stories + "<th></th></tr></thead>"
    body = [
        f'<tr class="score"><th>{label}</th><td class="number">{number}</td>'
        + f'<td class="beside">{beside}</td>' * has_stories
        + f'<td class="meaning">{meaning}</td></tr>'
        for label, number, beside, meaning in found
    ]
    return _lines("<table>", head, "<tbody>", *body, "</tbody></table>")


def _beside(samples: Sequence[Mapping[str, Any]], stories: Sequence[str]) -> Iterable[str]:
    for number, sample in enumerate(samples):
        written = with_ellipsis(sample["text"], ended=sample["ended"])
        pair = {"model": written} | ({"story": stories[number]} if number < len(stories) else {})
        yield _lines('<div class="pair">', *(_labelled(kind, text) for kind, text in pair.items()), "</div>")


def _strip(frames: Sequence[Frame]) -> str:
    if not frames:
        return ""
    last = len(frames) - 1
    wanted = sorted({round(last * place / (STRIP_STATES - 1)) for place in range(STRIP_STATES)})
    return _lines('<div class="strip">', *(_state(frames[number]) for number in wanted), "</div>")


def _state(frame: Frame) -> str:
    text = "".join(f'<span class="{span.state}">{escape(span.text)}</span>' for span in frame.spans)
    return f"<div><b>step {frame.step} of {frame.num_sampling_steps}</b>{text}</div>"


def _copied(scores: Mapping[str, Any]) -> str:
    copied = scores.get("copied")
    if copied is None:
        return ""
    runs = ", ".join(str(sample["longest_overlap_words"]) for sample in scores["samples"])
    return (
        f"<p>The longest run of words that a free sample shares with one of the first {copied['searched_stories']:,} "
        f"training stories has {copied['longest_overlap_words']} words; the mean over the samples is "
        f"{copied['mean_overlap_words']:.1f} words. Such runs hold {copied['overlap_share']:.1%} of all words of the "
        f"samples. Case and punctuation are ignored.</p>{_quote(copied['longest_overlap_text'])}"
        f'<p class="quiet">Words in the longest run of each sample, in their order above: {runs}.</p>'
    )


def _continuation(prompt: str, continuation: str, reference: str) -> str:
    pair = _labelled("model", continuation) + _labelled("story", reference)
    return f'<p><b>{escape(prompt)}</b></p><div class="pair">{pair}</div>'


def _infilled(infilling: Mapping[str, Any] | None) -> Iterable[str]:
    for example in infilling["examples"] if infilling else ():
        before, after = escape(example["before"][-200:]), escape(example["after"][:200])
        written = {"True": example["original"], "This model": example["model"], "Twin": example.get("twin")}
        told = "<br>".join(f"{name}: <mark>{escape(text)}</mark>" for name, text in written.items() if text is not None)
        yield f'<blockquote>… {before} <mark>[…]</mark> {after} …</blockquote><p class="quiet">{told}</p>'


def _pairs(found: Mapping[str, Any] | None) -> str:
    """Accuracy by phenomenon."""
    if found is None:
        return ""
    kinds = {name: found[name] for name in ("chain_rule", "bound") if found[name]}
    phenomena = found["chain_rule"]["by_phenomenon"]
    head = "<thead><tr><th></th><th>pairs</th>" + "".join(f"<th>{name.replace('_', ' ')}</th>" for name in kinds)
    lines = [
        f"<tr><th>{escape(name)}</th><td>{value['pairs']}</td>"
        + "".join(f'<td class="number">{kind["by_phenomenon"][name]["accuracy"]:.1%}</td>' for kind in kinds.values())
        + "</tr>"
        for name, value in phenomena.items()
    ]
    return _lines("<table>", head + "</tr></thead>", "<tbody>", *lines, "</tbody></table>")


def _pairs_of(values: Mapping[str, Any]) -> str:
    """A table of names and values; nested ones stand on their own."""
    lines = [
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in values.items()
        if not isinstance(value, Mapping) and value is not None
    ]
    return _lines("<table><tbody>", *lines, "</tbody></table>") if lines else ""


def _lines(*parts: str) -> str:
    return "\n".join(parts)


def _quote(text: str, kind: str = "model") -> str:
    return f'<blockquote class="{kind}">{escape(text.strip()) or "(nothing)"}</blockquote>'


def _labelled(kind: str, text: str) -> str:
    return f'<div><p class="label {kind}">{LABELS[kind]}</p>{_quote(text, kind)}</div>'


def _image(images: Mapping[str, Path], name: str) -> str:
    if name not in images:
        return ""
    source = f"data:image/png;base64,{base64.b64encode(images[name].read_bytes()).decode()}"
    return f'<figure><img src="{source}" alt="{CAPTIONS[name]}"><figcaption>{CAPTIONS[name]}</figcaption></figure>'
