"""What each score is called, how it is written, and what it means: one row of the report's tables for each."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """One number of the scores, for people.

    path: where it is in the scores.
    pattern: how it is written.
    meaning: what it is, in a sentence.
    beside: where the real stories' own number is, if they have one.
    only: `upper` or `exact`, where the sentence is true of that kind alone.
    error: where its standard error is: then only digits that are known are written, and the error after them.
    """

    path: str
    label: str
    pattern: str
    meaning: str
    beside: str | None = None
    only: str | None = None
    error: str | None = None

    def shown(self, scores: Mapping[str, Any]) -> tuple[str, str] | None:
        """The model's number and the stories', as text; None where it was not measured or says something else."""
        value = at(scores, self.path)
        if value is None or self.only not in (None, scores.get("bound")):
            return None
        other = at(scores, self.beside) if self.beside else None
        error = at(scores, self.error) if self.error else None
        shown = with_error(self.pattern, value, error) if error else self.pattern.format(value)
        return shown, "" if other is None else self.pattern.format(other)


def with_error(pattern: str, value: float, error: float) -> str:
    """`≤ {:.3f}`, 1.38912 and 0.0062 make `≤ 1.39 ± 0.006`: the last digit is larger than the standard error.

    No more digits than the pattern has.
    """
    match = re.fullmatch(r"(.*)\{:(\+?)\.(\d)(f|%)\}(.*)", pattern)
    assert match, pattern
    before, sign, most, kind, after = match.groups()
    scale, unit = (100, " %") if kind == "%" else (1, "")
    apart = scale * error
    digits = max(0, min(int(most), math.ceil(-math.log10(apart)) - 1))
    told = f"{apart:.1g}" if apart < 9.5 else f"{apart:.0f}"  # 12, not 1e+01
    return f"{before}{scale * value:{sign}.{digits}f} ± {told}{unit}{after}"


def at(scores: Mapping[str, Any], path: str) -> Any:
    """What stands at a dotted path; None where nothing does."""
    value: Any = scores
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def numbers_of(scores: Mapping[str, Any], prefix: str = "evaluation") -> dict[str, float]:
    """The scores that are single numbers, under names like `evaluation/seed_protocols/S3/loss`; no settings."""
    numbers: dict[str, float] = {}
    for name, value in scores.items():
        if isinstance(value, Mapping) and name != "settings":
            numbers |= numbers_of(value, f"{prefix}/{name}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}/{name}"] = float(value)
    return numbers


def headline(scores: Mapping[str, Any]) -> str:
    """The first number, with what it is and on what."""
    kind = "at most" if scores["bound"] == "upper" else "exactly"
    error = scores.get("bits_per_byte_stderr")
    number = with_error("{:.3f}", scores["bits_per_byte"], error) if error else f"{scores['bits_per_byte']:.3f}"
    return f"{kind} {number} bits per byte on {measured_on(scores)}"


def measured_on(scores: Mapping[str, Any]) -> str:
    """The text behind the likelihoods: figures on other text don't compare."""
    data = scores["data"]
    source = f" of {data['name']}" if data.get("name") else ""
    return (
        f"{count_stories(data['stories'])}{source} ({data['text_bytes']:,} bytes, digest {scores['data_digest'][:8]})"
    )


def count_stories(count: int) -> str:
    return "1 story" if count == 1 else f"{count:,} stories"


LIKELIHOOD = (
    Measure(
        "bits_per_byte", "Bits per byte", "≤ {:.3f}",
        "UPPER BOUND on the negative log-likelihood, for each UTF-8 byte of text; comparable between tokenizers. "
        "Lower is better. It is that of writing at temperature 1 without filters, where ends are tokens like others; "
        "± is the Monte-Carlo standard error of the masks.", only="upper", error="bits_per_byte_stderr",
    ),
    Measure(
        "bits_per_byte", "Bits per byte", "{:.3f}",
        "EXACT negative log-likelihood, for each UTF-8 byte of text; comparable between tokenizers. Lower is better. "
        "It is that of writing at temperature 1 without filters, where ends are tokens like others.",
        only="exact",
    ),
    Measure(
        "bits_per_byte_interval", "… 95 % interval", "{0[0]:.3f} … {0[1]:.3f}",
        "Bootstrap over stories: how far other stories of the same kind would move it. None for fewer than 20.",
    ),
    Measure(
        "nll_nats", "Nats per token", "{:.3f}",
        "The same for each token of text; comparable only between models with the same tokenizer. Every position of a "
        "row is predicted, its tail too.", error="nll_nats_stderr",
    ),
    Measure(
        "nats_per_story", "Nats per story", "{:.1f}", "The same for a whole story.", error="nats_per_story_stderr",
    ),
    Measure(
        "twin.bits_per_byte", "Bits per byte, twin", "{:.3f}",
        "EXACT: the autoregressive model of the same size on the same stories, by its own tokens.",
    ),
    Measure(
        "twin.gap_bits_per_byte", "… gap to it", "{:+.3f}",
        "This model less its twin, in bits per byte: a bound less an exact value, so the true gap is smaller.",
        error="bits_per_byte_stderr",
    ),
    Measure(
        "twin.gap_interval", "… 95 % interval", "{0[0]:+.3f} … {0[1]:+.3f}", "Bootstrap over stories, paired.",
    ),
    Measure(
        "masked_accuracy", "Masked accuracy", "{:.1%}",
        "UNWEIGHTED: masked text tokens that the most likely token hits, at mask rates from almost none to all.",
        error="masked_accuracy_stderr",
    ),
    Measure(
        "next_token_accuracy", "Next-token accuracy", "{:.1%}",
        "Text tokens that the most likely token hits, everything before them visible.",
    ),
    Measure(
        "chain_rule.left_to_right.bits_per_byte", "Left to right", "{:.3f}",
        "EXACT for writing a whole row one token at a time from left to right, at temperature 1 without filters, on "
        "the first stories only.",
    ),
    Measure(
        "chain_rule.confidence.bits_per_byte", "Most confident first", "{:.3f}",
        "EXACT for writing one token at a time where the model is most certain; same stories.",
    ),
    Measure(
        "chain_rule.margin.bits_per_byte", "Largest margin first", "{:.3f}",
        "EXACT for the order of the largest lead of the best token over the next; same stories.",
    ),
    Measure(
        "chain_rule.any_order.bits_per_byte", "Bound on the same stories", "≤ {:.3f}",
        "UPPER BOUND, the average over all orders; orders stand in no fixed relation to it.",
        error="chain_rule.any_order.bits_per_byte_stderr",
    ),
    Measure(
        "seed_protocols.S0.loss", "S0 protocol, loss", "{:.3f}",
        "UNWEIGHTED mean cross-entropy of masked tokens at uniform mask rates, end tokens never masked. No bound.",
        error="seed_protocols.S0.loss_stderr",
    ),
    Measure(
        "seed_protocols.S1.loss", "S1 protocol, loss", "{:.3f}",
        "The bound for each position of the row, easy end tokens of the tail among them.",
        error="seed_protocols.S1.loss_stderr",
    ),
    Measure(
        "seed_protocols.S3.loss", "S3 protocol, loss", "{:.3f}",
        "UNWEIGHTED mean cross-entropy in nats of masked tokens at cosine mask rates, with the story's length given. "
        "No bound; only for comparison with numbers made in this way.", error="seed_protocols.S3.loss_stderr",
    ),
    Measure(
        "seed_protocols.S3.accuracy", "S3 protocol, accuracy", "{:.1%}", "Accuracy under the same protocol.",
        error="seed_protocols.S3.accuracy_stderr",
    ),
)  # fmt: skip

TEXT = (
    Measure(
        "judge.samples.perplexity", "Judge's perplexity", "{:.1f}",
        "How likely free samples are to another language model; it likes repetition, so read it with the entropy. "
        "A judge that was trained on these stories finds them likelier than others would.",
        beside="judge.stories.perplexity",
    ),
    Measure(
        "judge.samples.entropy_nats", "… entropy", "{:.2f}", "Nats: how varied the tokens of a text are, mean.",
        beside="judge.stories.entropy_nats",
    ),
    Measure("judge.mauve", "MAUVE", "{:.3f}", "How alike samples and stories lie in the judge's features; 1 is best."),
    Measure(
        "bleu", "BLEU-4, continuations", "{:.2f}",
        "Continuations of story beginnings against the true ones; 0 to 100.",
    ),
    Measure("bleu_free", "BLEU-4, free samples", "{:.2f}", "Free samples against random validation stories; 0 to 100."),
    Measure("self_bleu", "Self-BLEU", "{:.2f}", "Each free sample against the others; 100: they are all the same."),
    Measure("distinct_1", "Distinct words", "{:.1%}", "Different words among all words of the free samples."),
    Measure("distinct_2", "Distinct word pairs", "{:.1%}", "The same for pairs of words."),
    Measure("distinct_3", "Distinct triples", "{:.1%}", "The same for three words in a row."),
    Measure("repetition_4", "Repetition", "{:.1%}", "Runs of four words that their own text has had before."),
    Measure("unigram_entropy_nats", "Word entropy", "{:.2f}", "Nats: how varied the words of a sample are, mean."),
    Measure(
        "length_divergence_nats", "Lengths, divergence", "{:.3f}",
        "Nats: KL of the samples' lengths in words from the stories'; 0 is equal, and few samples make it larger.",
    ),
    Measure(
        "lengths.samples.words", "Words a text", "{:.1f}",
        "Mean over free samples, and over whole stories, of which a row of the model may hold only the beginning.",
        beside="lengths.data.words",
    ),
    Measure(
        "vocabulary.overlap", "Shared vocabulary", "{:.1%}", "Different words of the samples that the stories have.",
    ),
    Measure(
        "vocabulary.total_variation", "Word distribution", "{:.3f}",
        "Total variation distance between the samples' words and the stories': 0 equal, 1 disjoint.",
    ),
    Measure(
        "word_validity", "Known words", "{:.1%}",
        "Words of the free samples that occur in the training stories that were searched.",
    ),
    Measure(
        "copied.longest_overlap_words", "Longest copied run", "{:d}",
        "Words: the longest run that a free sample shares with one training story.",
    ),
    Measure(
        "copied.overlap_share", "Longest copied runs, share", "{:.1%}",
        "The words in the free samples' longest such runs, as a share of all their words.",
    ),
    Measure(
        "copied.ngram_8_share", "Copied runs of 8", "{:.1%}", "Runs of eight words that some training story has too.",
    ),
    Measure("copied.exact_share", "Exact copies", "{:.1%}", "Samples that are a training story, word for word."),
    Measure(
        "infilling.model.bleu", "Infilling, BLEU-4", "{:.2f}",
        "A story's middle sentence, written anew between its two sides, against the true one.",
    ),
    Measure(
        "infilling.twin.bleu", "… by the twin", "{:.2f}", "The same by the twin, which sees the left side alone.",
    ),
    Measure(
        "infilling.model.judge.change_percent", "Infilling, judge", "{:+.2f} %",
        "How much less likely the filled stories are to the judge than the true ones.",
    ),
    Measure(
        "infilling.twin.judge.change_percent", "… by the twin", "{:+.2f} %", "The same for the twin's sentences.",
    ),
    Measure(
        "minimal_pairs.chain_rule.overall.accuracy", "Minimal pairs", "{:.1%}",
        "Pairs whose good sentence is the likelier one, by the chain rule from left to right.",
    ),
    Measure(
        "minimal_pairs.bound.overall.accuracy", "… by the bound", "{:.1%}", "The same by the bound with paired masks.",
    ),
)  # fmt: skip
"""A score that was not measured gets no row."""


def rows(scores: Mapping[str, Any], measures: tuple[Measure, ...]) -> Iterator[tuple[str, str, str, str]]:
    """Label, number, the real stories' number, meaning: of what was measured."""
    for measure in measures:
        if shown := measure.shown(scores):
            yield measure.label, *shown, measure.meaning


HEADLINES = (
    "bits_per_byte", "bits_per_byte_interval", "nll_nats", "masked_accuracy", "next_token_accuracy",
    "twin.gap_bits_per_byte", "seed_protocols.S3.loss", "seed_protocols.S3.accuracy", "judge.samples.perplexity",
    "judge.samples.entropy_nats", "bleu", "self_bleu", "word_validity",
)  # fmt: skip
"""What a run's summary shows of them."""


def chosen(measures: tuple[Measure, ...]) -> tuple[Measure, ...]:
    """Those of the summary."""
    return tuple(measure for measure in measures if measure.path in HEADLINES)


def headlines(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and number."""
    return [
        ("Measured on", measured_on(scores)),
        *(
            (label, f"{number} (real stories {beside})" if beside else number)
            for label, number, beside, _ in rows(scores, chosen((*LIKELIHOOD, *TEXT)))
        ),
    ]
