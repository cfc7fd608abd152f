"""The middle sentence of a real story taken out, and written anew by the model, which sees both sides of the gap.

Source: Donahue et al., "Enabling Language Models to Fill in the Blanks" (ILM), 2020, for the task. Our deviation: the
sentence's length in tokens is given, so that the text around it stays where it was.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from statistics import mean
from typing import Any

from ddlm.config import UserError
from ddlm.diffusion import SamplingConfig
from ddlm.evaluation.judge import Judge
from ddlm.evaluation.text import bleu
from ddlm.generation import DiffusionPipeline
from ddlm.generation.drafts import GAP
from ddlm.tokenizer import Tokenizer

BETWEEN_SENTENCES = re.compile(r"""(?:(?<=[.!?])|(?<=[.!?]["'”’]))(?=\s+["'“‘A-Z])""")
"""Behind a sentence, where another begins. The space belongs to the next one, as in a vocabulary of bytes."""
FEWEST_SENTENCES = 3
NUM_EXAMPLES = 5


@dataclass(frozen=True)
class Gap:
    """A story without its middle sentence; `original` begins with the space before it."""

    before: str
    original: str
    after: str

    def filled(self, sentence: str) -> str:
        return self.before + sentence + self.after

    def tokens(self, tokenizer: Tokenizer) -> int:
        """What the story has more than its two sides: with so many tokens in the gap it is as long as it was."""
        story, before, after = map(len, tokenizer.encode_batch([self.filled(self.original), self.before, self.after]))
        return story - before - after


def middle_sentences(stories: Sequence[str], pipeline: DiffusionPipeline, count: int) -> list[Gap]:
    """The gaps of the first `count` stories that have three sentences or more and fit into a row with their end.

    Raises: UserError when there is none.
    """
    gaps = list(islice(_gaps(stories, pipeline), count))
    if not gaps:
        raise UserError(
            f"infilling: none of {len(stories)} stories has {FEWEST_SENTENCES} sentences in fewer than "
            f"{pipeline.seq_len} tokens; give others, or a model with longer rows"
        )
    return gaps


def score_infilling(
    pipeline: DiffusionPipeline,
    stories: Sequence[str],
    *,
    count: int,
    sampling: SamplingConfig,
    seed: int,
    judge: Judge | None = None,
    twin: DiffusionPipeline | None = None,
) -> dict[str, Any]:
    """What the model writes into the middle of stories, beside the true sentences, as a JSON document.

    twin: an autoregressive model, which sees the text before the gap alone. judge: with it, `judge` holds the nats a
    token of the whole stories, true and filled, and by how many percent the filled ones are less likely.
    Raises: UserError when no story has a middle that fits, or one of them does not fit the twin.
    """
    gaps = middle_sentences(stories, pipeline, count)
    writers = {"model": pipeline} | ({"twin": twin} if twin else {})
    written = {name: write_gaps(writer, gaps, sampling, seed) for name, writer in writers.items()}
    scores = {name: _score(gaps, sentences, judge) for name, sentences in written.items()}
    return {
        "stories": len(gaps),
        "gap_tokens": mean(gap.tokens(pipeline.tokenizer) for gap in gaps),
        "model": scores["model"],
        "twin": scores.get("twin"),
        "examples": [
            asdict(gap) | {name: sentences[number] for name, sentences in written.items()}
            for number, gap in enumerate(gaps[:NUM_EXAMPLES])
        ],
        "settings": {"seed": seed, "sampling": sampling.keyed()},
    }


def write_gaps(pipeline: DiffusionPipeline, gaps: Sequence[Gap], sampling: SamplingConfig, seed: int) -> list[str]:
    """A sentence for each gap, of the tokens that the true one has in this model's vocabulary."""
    texts = [gap.filled(f"___[{gap.tokens(pipeline.tokenizer)}]") for gap in gaps]
    samples = pipeline.infill_batch(texts, sampling=sampling, seed=seed).samples
    return [
        sample.text[len(gap.before) : len(sample.text) - len(gap.after)]
        for gap, sample in zip(gaps, samples, strict=True)
    ]


def _gaps(stories: Sequence[str], pipeline: DiffusionPipeline) -> Iterator[Gap]:
    for story in stories:
        sentences = BETWEEN_SENTENCES.split(story)
        middle = len(sentences) // 2
        is_long_enough = len(sentences) >= FEWEST_SENTENCES and not GAP.search(story)
        if is_long_enough and len(pipeline.tokenizer.encode_story(story)) < pipeline.seq_len:
            yield Gap("".join(sentences[:middle]), sentences[middle], "".join(sentences[middle + 1 :]))


def _score(gaps: Sequence[Gap], sentences: Sequence[str], judge: Judge | None) -> dict[str, Any]:
    pairs = list(zip(gaps, sentences, strict=True))
    return {
        "bleu": bleu([sentence.strip() for sentence in sentences], [gap.original.strip() for gap in gaps]),
        "exact_matches": sum(sentence == gap.original for gap, sentence in pairs) / len(pairs),
        "judge": _judged(judge, pairs) if judge else None,
    }


def _judged(judge: Judge, pairs: Sequence[tuple[Gap, str]]) -> dict[str, Any]:
    filled = judge.score([gap.filled(sentence) for gap, sentence in pairs]).nll_nats
    true = judge.score([gap.filled(gap.original) for gap, _ in pairs]).nll_nats
    assert filled is not None
    assert true is not None
    return {
        "judge": judge.name,
        "nll_nats": filled,
        "true_nll_nats": true,
        "change_percent": 100 * (filled - true) / true,
    }
