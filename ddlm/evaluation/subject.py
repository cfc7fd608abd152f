"""A model and the rows that it is scored on: every likelihood that can be had of it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ddlm.data.packing import LAYOUTS, Encoder, Rows
from ddlm.evaluation import EvaluationConfig, protocols
from ddlm.evaluation.calibration import calibrate
from ddlm.evaluation.chain_rule import ChainRule, one_by_one, score_rows
from ddlm.evaluation.likelihood import Likelihood, interval_over_stories, likelihood_of
from ddlm.evaluation.sweep import Sweep
from ddlm.generation import DiffusionPipeline
from ddlm.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """A model, the stories that it is scored on, as its rows, and how."""

    pipeline: DiffusionPipeline
    stories: Sequence[str]
    rows: Rows
    story: np.ndarray
    evaluation: EvaluationConfig
    seed: int
    sweep: Sweep

    @classmethod
    def of(
        cls, pipeline: DiffusionPipeline, stories: Sequence[str], layout: str, evaluation: EvaluationConfig, seed: int,
        sweep: Sweep,
    ) -> "Subject":  # fmt: skip
        rows, story = rows_from_texts(pipeline.tokenizer, stories, pipeline.seq_len, layout)
        return cls(pipeline, stories, rows, story, evaluation, seed, sweep)

    def likelihood(self) -> Likelihood:
        masks = self.evaluation.masks_per_row
        return likelihood_of(
            self.pipeline.model, self.rows, masks_per_row=masks, seed=self.seed, story=self.story, sweep=self.sweep
        )


def rows_from_texts(
    tokenizer: Tokenizer, texts: Sequence[str], seq_len: int, layout: str = "story"
) -> tuple[Rows, np.ndarray]:
    """Rows of the texts, and the number of the story that each row belongs to; of a packed row its own number."""
    encoded = Encoder(tokenizer)(texts)
    rows = Rows.join(list(LAYOUTS[layout]([encoded], seq_len, tokenizer.end_id)))
    rows_per_story = -(-encoded.lengths // seq_len)
    return rows, np.repeat(np.arange(len(texts)), rows_per_story) if layout == "story" else np.arange(len(rows))


def likelihood_scores(own: Likelihood, is_autoregressive: bool) -> dict[str, Any]:
    """Under the names that others rely on; the accuracy is called by what the model could see."""
    values = asdict(own)
    name = "next_token_accuracy" if is_autoregressive else "masked_accuracy"
    found = {name: values.pop("accuracy"), f"{name}_stderr": values.pop("accuracy_stderr")}
    del values["row_nats"]
    return values | found


def masked_scores(subject: Subject) -> dict[str, Any]:
    """What only a masked model has: a curve over mask rates, and a likelihood for each order of writing."""
    pipeline = subject.pipeline
    if pipeline.is_autoregressive:
        return {"seed_protocols": {}}
    common: dict[str, Any] = {"mask_id": pipeline.tokenizer.mask_id, "seed": subject.seed, "sweep": subject.sweep}
    curve = protocols.curve(
        pipeline.model.at,
        subject.rows,
        end_id=pipeline.tokenizer.end_id,
        **common | {"sweep": subject.sweep.called("mask rates, batches")},
    )
    return {
        "calibration": asdict(calibrate(pipeline.model.at, subject.rows, **common)),
        "chain_rule": _chain_rules(subject, common),
        "mask_rate_curve": [asdict(point) for point in curve.points()],
        "seed_protocols": {
            "S0": asdict(curve.s0()),
            "S1": asdict(curve.s1()),
            "S3": asdict(
                protocols.s3_protocol(pipeline.model.at, subject.rows, **common | {"sweep": subject.sweep.called("")})
            ),
        },
    }


def _chain_rules(subject: Subject, common: Mapping[str, Any]) -> dict[str, Any]:
    """The exact likelihoods of the first stories, and the bound on the very same ones."""
    evaluation, rows, story = subject.evaluation, subject.rows, subject.story
    few = rows[: int((story < evaluation.chain_rule_stories).sum())]
    if not len(few):
        return {}
    logger.info("evaluate: exact likelihoods of %d rows along %d orders", len(few), len(evaluation.chain_rule_orders))
    orders: dict[str, ChainRule] = {
        name: score_rows(
            subject.pipeline.model.at, few, story=story[: len(few)],
            sampling=one_by_one(name, subject.pipeline.seq_len), **common,
        )
        for name in evaluation.chain_rule_orders
    }  # fmt: skip
    sizes: Any = {"masks_per_row": evaluation.masks_per_row, "seed": subject.seed, "sweep": subject.sweep}
    same = likelihood_of(subject.pipeline.model, few, story=story[: len(few)], **sizes)
    stories = int(story[len(few) - 1]) + 1
    orders["any_order"] = ChainRule(
        same.nll_nats, same.bits_per_byte, same.bits_per_byte_interval, stories, same.bound, same.bits_per_byte_stderr
    )
    return {name: asdict(value) for name, value in orders.items()}


def gap_scores(subject: Subject, own: Likelihood, twin: DiffusionPipeline | None) -> dict[str, Any]:
    """The twin on the same stories, by its own tokens, and the difference in bits per byte.

    Its interval is paired over stories, over rows where both are packed alike; rows that are cut differently have no
    pairs, and no interval.
    """
    if twin is None:
        return {}
    other = Subject.of(twin, subject.stories, twin.config.layout, subject.evaluation, subject.seed, subject.sweep)
    value = other.likelihood()
    scores = likelihood_scores(value, twin.is_autoregressive)
    scores["gap_bits_per_byte"] = own.bits_per_byte - value.bits_per_byte
    nats = [np.bincount(side.story, rows) for side, rows in ((subject, own.row_nats), (other, value.row_nats))]
    size, other_size = (np.bincount(side.story, side.rows.text_bytes) for side in (subject, other))
    if np.array_equal(size, other_size):
        scores["gap_interval"] = interval_over_stories((nats[0] - nats[1]) / np.log(2), size, seed=subject.seed)
    return {"twin": scores}
