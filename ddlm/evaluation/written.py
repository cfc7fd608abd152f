"""Texts that a model writes to be scored, and real ones cut to the same length."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from ddlm.diffusion import SamplingConfig
from ddlm.evaluation import EvaluationConfig
from ddlm.evaluation.text import split_at_word
from ddlm.generation import DiffusionPipeline, Sample, with_ellipsis
from ddlm.generation.results import CUT_CHARACTER


@dataclass(frozen=True)
class Written:
    """A text of the model: a free sample, or the continuation of a validation story's beginning.

    continuation: what stands behind the prompt. reference: how the story itself goes on, as far as a row holds it;
    None for a free sample.
    """

    sample: Sample
    continuation: str
    reference: str | None = None


def continue_stories(
    pipeline: DiffusionPipeline,
    stories: Sequence[str],
    evaluation: EvaluationConfig,
    sampling: SamplingConfig,
    seed: int,
) -> list[Written]:
    """Continuations of the first stories that have something to continue."""
    tokenizer = pipeline.tokenizer
    begun = (split_at_word(story, evaluation.prompt_words) for story in stories)
    encoded = ((prompt, rest, tokenizer.encode(prompt)) for prompt, rest in begun if prompt)
    fitting = list(
        islice(
            (item for item in encoded if len(tokenizer.story_prefix) + len(item[2]) < pipeline.seq_len),
            evaluation.num_continuations,
        )
    )
    samples = pipeline.generate_batch([prompt for prompt, _, _ in fitting], sampling=sampling, seed=seed).samples
    return [
        Written(
            sample,
            continuation=tokenizer.decode(sample.tokens[len(prompt_ids) :]),
            reference=tokenizer.decode(tokenizer.encode(rest)[: pipeline.seq_len - len(prompt_ids)]).rstrip(
                CUT_CHARACTER
            ),
        )
        for sample, (_, rest, prompt_ids) in zip(samples, fitting, strict=True)
    ]


def shown_in_rows(pipeline: DiffusionPipeline, stories: Sequence[str]) -> list[str]:
    """For people: an ellipsis says that the story goes on."""
    cut = zip(in_rows(pipeline, stories), stories, strict=True)
    return [with_ellipsis(text, ended=len(text) >= len(story)) for text, story in cut]


def in_rows(pipeline: DiffusionPipeline, stories: Sequence[str]) -> list[str]:
    """As much of each story as a row of the model holds."""
    tokenizer = pipeline.tokenizer
    return [tokenizer.decode(ids[: pipeline.seq_len]) for ids in tokenizer.encode_batch(stories)]
