"""Everything that is measured of a model, as one document."""

import hashlib
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddlm.config import UserError
from ddlm.data.packing import Rows
from ddlm.diffusion import SamplingConfig
from ddlm.evaluation import EvaluationConfig, frontier, measures, text
from ddlm.evaluation.infilling import score_infilling
from ddlm.evaluation.judge import Judge, compare
from ddlm.evaluation.pairs import Pair, read_pairs, score_pairs
from ddlm.evaluation.subject import Subject, gap_scores, likelihood_scores, masked_scores
from ddlm.evaluation.sweep import Sweep
from ddlm.evaluation.written import Written, continue_stories, in_rows, shown_in_rows
from ddlm.generation import DiffusionPipeline, Frame, Sample
from ddlm.tokenizer import Tokenizer
from ddlm.tracking.provenance import origin

logger = logging.getLogger(__name__)

JUDGED_STORIES = 200
"""Validation stories whose own score stands beside the samples', at most."""


@dataclass(frozen=True)
class Companions:
    """What a model is set beside: another model's judgement, its autoregressive twin, minimal pairs."""

    judge: Judge | None = None
    twin: DiffusionPipeline | None = None
    pairs: Sequence[Pair] = ()

    @classmethod
    def of(cls, evaluation: EvaluationConfig, device: torch.device) -> "Companions":
        """Raises: UserError for a judge, twin or file of pairs that can't be used."""
        return cls(
            Judge.load(evaluation.judge, str(device)) if evaluation.judge else None,
            DiffusionPipeline.from_pretrained(evaluation.twin, device) if evaluation.twin else None,
            read_pairs(Path(evaluation.pairs)) if evaluation.pairs else (),
        )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """`scores` is the JSON document of `ddlm evaluate`; the rest is what it was made from.

    frames: of one denoising. real: as many stories as there are free samples, as far as a row holds them.
    """

    scores: Mapping[str, Any]
    rows: Rows
    row_nats: np.ndarray
    story: np.ndarray
    free: Sequence[Written]
    continued: Sequence[Written]
    frames: Sequence[Frame]
    real: Sequence[str]


def evaluate(
    pipeline: DiffusionPipeline,
    stories: Sequence[str],
    *,
    model: str,
    evaluation: EvaluationConfig,
    sampling: SamplingConfig,
    seed: int,
    layout: str = "story",
    training_stories: Sequence[str] | None = None,
    companions: Companions | None = None,
    sweep: Sweep | None = None,
    text_name: str | None = None,
) -> Evaluation | None:
    """Score a model: its likelihood on the first `evaluation.stories` stories, its texts beside all of them.

    model: what the scores call the model. layout: how its training rows were made. training_stories: without them
    nothing is said about copied text and known words. companions: those that `evaluation` names, if absent. sweep: with
    several processes the first one alone writes texts; the others get None. text_name: what the stories are of, for
    people. Raises: as the companions' measures do.
    """
    scored = stories[: evaluation.stories]
    if len(stories) < evaluation.num_samples and (sweep is None or sweep.is_first):
        logger.warning(
            "evaluate: %d samples are compared with %s: there are no more",
            evaluation.num_samples,
            measures.count_stories(len(stories)),
        )
    companions = companions or Companions.of(evaluation, pipeline.device)
    chosen = sweep or Sweep(evaluation.batch_size, pipeline.device, label="bound, batches")
    subject = Subject.of(pipeline, scored, layout, evaluation, seed, chosen)
    longer = int((np.bincount(subject.story) > 1).sum())
    if longer and chosen.is_first:
        logger.info(
            "evaluate: %d of %d stories are longer than a row of %d tokens and go on in further ones",
            longer, len(scored), pipeline.seq_len,
        )  # fmt: skip
    own = subject.likelihood()
    found = {
        **likelihood_scores(own, pipeline.is_autoregressive),
        **masked_scores(subject),
        **gap_scores(subject, own, companions.twin),
    }
    if not chosen.is_first:
        return None
    logger.info("evaluate: writing %d samples", evaluation.num_samples)
    made = pipeline.generate(num_samples=evaluation.num_samples, sampling=sampling, seed=seed)
    free = [Written(sample, sample.text) for sample in made.samples]
    continued = continue_stories(pipeline, stories, evaluation, sampling, seed)
    samples = [written.sample.text for written in free]
    scores = {
        **found,
        **_score_text(samples, continued, stories, seed),
        "lengths": _lengths([written.sample for written in free], stories, pipeline.tokenizer),
        **_beside(companions, subject, samples, stories, sampling),
        **_samples(free, training_stories),
        "data_digest": data_digest(scored),
        "data": {
            "name": text_name,
            "stories": len(scored),
            "rows": len(subject.rows),
            "longer_stories": longer,
            "text_tokens": int(np.sum(subject.rows.text_tokens)),
            "text_bytes": int(np.sum(subject.rows.text_bytes)),
        },
        "model": model,
        "settings": {"seed": seed, "seq_len": pipeline.seq_len, **evaluation.keyed(), "sampling": sampling.keyed()},
        "provenance": provenance(pipeline.device),
    }
    frames = pipeline.frames(sampling=sampling, seed=seed)
    real = shown_in_rows(pipeline, stories[: len(free)])
    return Evaluation(scores, subject.rows, own.row_nats, subject.story, free, continued, frames, real)


def data_digest(texts: Sequence[str]) -> str:
    """sha256 over the evaluated text: the same for every tokenizer and row length."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _score_text(
    samples: Sequence[str], continued: Sequence[Written], stories: Sequence[str], seed: int
) -> dict[str, Any]:
    references = [written.reference or "" for written in continued]
    picked = np.random.default_rng(seed).permutation(len(stories))[: len(samples)]
    return {
        "bleu": text.bleu([written.continuation for written in continued], references) if continued else None,
        "bleu_free": text.bleu_free(samples, [stories[i] for i in picked]),
        **text.describe(samples, stories),
    }


def _lengths(samples: Sequence[Sample], stories: Sequence[str], tokenizer: Tokenizer) -> dict[str, Any]:
    """Mean words and tokens; of stories in full, also where a row of the model holds only their beginning."""
    return {
        "samples": {
            "words": float(np.mean([len(sample.text.split()) for sample in samples])),
            "tokens": float(np.mean([len(sample.tokens) for sample in samples])),
        },
        "data": {
            "words": float(np.mean([len(story.split()) for story in stories])),
            "tokens": float(np.mean([len(ids) for ids in tokenizer.encode_batch(stories)])),
        },
    }


def _samples(free: Sequence[Written], training_stories: Sequence[str] | None) -> dict[str, Any]:
    """The samples, and how much of them the training stories have; token ids stand in samples.jsonl."""
    shown: list[dict[str, Any]] = [
        {"text": made.text, "prompt": made.prompt, "seed": made.seed, "number": made.number, "ended": made.ended}
        for made in (written.sample for written in free)
    ]
    if training_stories is None:
        return {"samples": shown}
    each, copied = text.judge_copying([sample["text"] for sample in shown], training_stories)
    return {**copied, "samples": [sample | own for sample, own in zip(shown, each, strict=True)]}


def _beside(
    companions: Companions, subject: Subject, samples: Sequence[str], stories: Sequence[str], sampling: SamplingConfig
) -> dict[str, Any]:
    """What the companions say."""
    pipeline, evaluation, seed = subject.pipeline, subject.evaluation, subject.seed
    found: dict[str, Any] = {}
    if companions.judge:
        logger.info("evaluate: asking the judge")
        real = in_rows(pipeline, stories[:JUDGED_STORIES])
        found["judge"] = compare(companions.judge, samples, real) | _mauve(companions.judge, samples, real)
    if companions.pairs:
        logger.info("evaluate: scoring %d minimal pairs", len(companions.pairs))
        masks, batch = evaluation.masks_per_row, evaluation.batch_size
        found["minimal_pairs"] = asdict(
            score_pairs(pipeline, companions.pairs, masks=masks, seed=seed, batch_size=batch)
        )
    found |= _infilling(companions, subject, stories, sampling)
    if companions.judge and evaluation.frontier:
        found["frontier"] = [asdict(point) for point in _frontier(companions, subject, stories, sampling)]
    return found


def _infilling(
    companions: Companions, subject: Subject, stories: Sequence[str], sampling: SamplingConfig
) -> dict[str, Any]:
    """Nothing where no story fits into a row: that is no reason to lose the other scores."""
    if not subject.evaluation.num_infills:
        return {}
    logger.info("evaluate: filling %d gaps", subject.evaluation.num_infills)
    try:
        found = score_infilling(
            subject.pipeline, stories, count=subject.evaluation.num_infills, sampling=sampling, seed=subject.seed,
            judge=companions.judge, twin=companions.twin,
        )  # fmt: skip
    except UserError as error:
        logger.warning("evaluate: %s", error)
        return {}
    return {"infilling": found}


def _mauve(judge: Judge, samples: Sequence[str], stories: Sequence[str]) -> dict[str, float]:
    """Nothing where its library is not installed."""
    value = text.mauve(judge.features(samples), judge.features(stories))
    return {} if value is None else {"mauve": value}


def _frontier(
    companions: Companions, subject: Subject, stories: Sequence[str], sampling: SamplingConfig
) -> list[frontier.Point]:
    judge, evaluation = companions.judge, subject.evaluation
    assert judge
    assert evaluation.frontier
    wanted: dict[str, Any] = {
        "num_samples": evaluation.num_samples, "seed": subject.seed, "rows_at_once": evaluation.batch_size,
    }  # fmt: skip
    is_twin = subject.pipeline.is_autoregressive
    arms = frontier.temperature_arms if is_twin else frontier.default_arms
    points = [
        frontier.of_texts("real stories", "real stories", in_rows(subject.pipeline, stories[:JUDGED_STORIES]), judge)
    ]
    points += frontier.sweep(subject.pipeline, judge, arms(sampling, evaluation.frontier), **wanted)
    if companions.twin:
        twins = frontier.temperature_arms(sampling, evaluation.frontier, "autoregressive twin")
        points += frontier.sweep(companions.twin, judge, twins, **wanted)
    return points


def provenance(device: torch.device) -> dict[str, str]:
    """The code and the hardware that scores come from; no host and no time."""
    code = {name: value for name, value in origin().items() if name not in ("host", "command")}
    hardware = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    )
    return code | {"torch": torch.__version__, "device": f"{hardware}, {os.cpu_count()} cores"}
