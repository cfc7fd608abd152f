"""The evaluate stage: score a model folder on the validation part of its corpus."""

import csv
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ddlm.artifacts import Workspace, sha256_file
from ddlm.data.corpus import read_stories
from ddlm.data.packing import LAYOUTS, Encoder, Rows
from ddlm.data.shards import read_manifest
from ddlm.diffusion import SamplingConfig
from ddlm.evaluation import EvaluationConfig, likelihood, report, text
from ddlm.generation import DiffusionPipeline, Sample
from ddlm.model.device import pick_device
from ddlm.model.folder import WEIGHTS
from ddlm.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """A text of the model: a free sample, or the continuation of a validation story's beginning.

    continuation: what stands behind the prompt. reference: how the story itself goes on, as far as a row holds it;
    None for a free sample.
    """

    sample: Sample
    continuation: str
    reference: str | None = None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """`scores` is the JSON document of `ddlm evaluate`; the rest is what it was made from."""

    scores: Mapping[str, Any]
    rows: Rows
    row_nats: np.ndarray
    story: np.ndarray
    free: Sequence[Written]
    continued: Sequence[Written]


def build(workspace: Workspace, *, seed: int, sampling: SamplingConfig, evaluation: EvaluationConfig) -> None:
    """Write scores.json, samples.jsonl, row_nats.parquet, curve.png, lengths.png and report.html."""
    corpus, shards, train = (workspace.inputs[name] for name in ("corpus", "shards", "train"))
    stories = read_stories(corpus, "validation")
    result = evaluate(
        DiffusionPipeline.from_pretrained(train, device=pick_device("auto")),
        stories,
        layout=read_manifest(shards)["layout"],
        training_stories=read_stories(corpus, "train", limit=evaluation.corpus_stories),
        model=f"sha256:{sha256_file(train / WEIGHTS)}",
        evaluation=evaluation,
        sampling=sampling,
        seed=seed,
    )
    workspace.run.log(dict(numbers_of(result.scores)), step=0)
    write(result, workspace.output, stories, read_curve(train / "curve.csv"))


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
) -> Evaluation:
    """Score a model: its likelihood on the first `evaluation.stories` stories, its texts beside all of them.

    model: what the scores call the model. layout: how its training rows were made. training_stories: without them
    nothing is said about copied text and known words.
    """
    scored = stories[: evaluation.stories]
    rows, story = rows_from_texts(pipeline.tokenizer, scored, pipeline.seq_len, layout)
    bound, protocols = _score_likelihood(pipeline, rows, story, evaluation, seed)
    made = pipeline.generate(num_samples=evaluation.num_samples, sampling=sampling, seed=seed)
    free = [Written(sample, sample.text) for sample in made.samples]
    continued = _continue_stories(pipeline, stories, evaluation, sampling, seed)
    samples = [written.sample.text for written in free]
    copying, copied = (
        ([{}] * len(samples), {}) if training_stories is None else text.judge_copying(samples, training_stories)
    )
    scores = {
        **{name: value for name, value in asdict(bound).items() if name != "row_nats"},
        "seed_protocols": protocols,
        **_score_text(samples, continued, stories, seed),
        "lengths": _lengths([written.sample for written in free], stories, pipeline.tokenizer),
        **copied,
        "samples": [_sample(written.sample) | own for written, own in zip(free, copying, strict=True)],
        "data_digest": data_digest(scored),
        "data": {
            "stories": len(scored),
            "rows": len(rows),
            "text_tokens": int(np.sum(rows.text_tokens)),
            "text_bytes": int(np.sum(rows.text_bytes)),
        },
        "model": model,
        "settings": {"seed": seed, "seq_len": pipeline.seq_len, **evaluation.keyed(), "sampling": sampling.keyed()},
    }
    return Evaluation(scores, rows, bound.row_nats, story, free, continued)


def rows_from_texts(
    tokenizer: Tokenizer, texts: Sequence[str], seq_len: int, layout: str = "story"
) -> tuple[Rows, np.ndarray]:
    """Rows of the texts, and the number of the story that each row belongs to; of a packed row its own number."""
    encoded = Encoder(tokenizer)(texts)
    rows = Rows.join(list(LAYOUTS[layout]([encoded], seq_len, tokenizer.end_id)))
    rows_per_story = -(-encoded.lengths // seq_len)
    return rows, np.repeat(np.arange(len(texts)), rows_per_story) if layout == "story" else np.arange(len(rows))


def data_digest(texts: Sequence[str]) -> str:
    """sha256 over the evaluated text: the same for every tokenizer and row length."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def numbers_of(scores: Mapping[str, Any], prefix: str = "evaluation") -> Iterator[tuple[str, float]]:
    """The scores that are single numbers, under names like `evaluation/seed_protocols/S3/loss`; no settings."""
    for name, value in scores.items():
        if isinstance(value, Mapping) and name != "settings":
            yield from numbers_of(value, f"{prefix}/{name}")
        elif isinstance(value, int | float):
            yield f"{prefix}/{name}", float(value)


def write(result: Evaluation, folder: Path, stories: Sequence[str], curve: Mapping[str, report.Points]) -> None:
    """Write everything that the stage leaves behind."""
    (folder / "scores.json").write_text(_json(result.scores, indent=1) + "\n", encoding="utf-8")
    lines = [_json(_line(written)) for written in (*result.free, *result.continued)]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    columns = {
        "row": np.arange(len(result.story)),
        "story": result.story,
        "nats": result.row_nats,
        "text_bytes": result.rows.text_bytes,
        "text_tokens": result.rows.text_tokens,
    }
    pq.write_table(pa.table(columns), folder / "row_nats.parquet")
    report.draw_curve(curve, folder / "curve.png")
    samples = [written.sample.text for written in result.free]
    report.draw_lengths({"samples": samples, "validation stories": stories}, folder / "lengths.png")
    pairs = [(written.sample.prompt, written.continuation, written.reference or "") for written in result.continued]
    (folder / "report.html").write_text(
        report.page(result.scores, pairs, {name: folder / f"{name}.png" for name in ("curve", "lengths")}),
        encoding="utf-8",
    )


def read_curve(path: Path) -> dict[str, report.Points]:
    """The measured points of each column of a training curve, by step."""
    with path.open(newline="", encoding="utf-8") as handle:
        lines = list(csv.DictReader(handle))
    names = [name for name in (lines[0] if lines else {}) if name != "step"]
    return {name: [(float(line["step"]), float(line[name])) for line in lines if line[name]] for name in names}


def _score_likelihood(
    pipeline: DiffusionPipeline, rows: Rows, story: np.ndarray, evaluation: EvaluationConfig, seed: int
) -> tuple[likelihood.Bound, dict[str, Any]]:
    common: dict[str, Any] = {
        "mask_id": pipeline.tokenizer.mask_id,
        "seed": seed,
        "batch_size": evaluation.batch_size,
        "device": pipeline.device,
    }
    bound = likelihood.bound(pipeline.model, rows, masks_per_row=evaluation.masks_per_row, story=story, **common)
    logger.info("evaluate: at most %.3f bits per byte, on %d rows", bound.bits_per_byte, len(story))
    return bound, {"S3": asdict(likelihood.s3_protocol(pipeline.model, rows, **common))}


def _continue_stories(
    pipeline: DiffusionPipeline,
    stories: Sequence[str],
    evaluation: EvaluationConfig,
    sampling: SamplingConfig,
    seed: int,
) -> list[Written]:
    """Continuations of the first stories that have something to continue."""
    tokenizer = pipeline.tokenizer
    begun = (text.split_at_word(story, evaluation.prompt_words) for story in stories)
    encoded = ((prompt, rest, tokenizer.encode(prompt)) for prompt, rest in begun if prompt)
    fitting = list(
        islice(
            (item for item in encoded if len(tokenizer.story_prefix) + len(item[2]) < pipeline.seq_len),
            evaluation.num_continuations,
        )
    )
    cut_character = "\N{REPLACEMENT CHARACTER}"  # the row may end between the bytes of one
    samples = pipeline.generate_batch([prompt for prompt, _, _ in fitting], sampling=sampling, seed=seed).samples
    return [
        Written(
            sample,
            continuation=tokenizer.decode(sample.tokens[len(prompt_ids) :]),
            reference=tokenizer.decode(tokenizer.encode(rest)[: pipeline.seq_len - len(prompt_ids)]).rstrip(
                cut_character
            ),
        )
        for sample, (_, rest, prompt_ids) in zip(samples, fitting, strict=True)
    ]


def _score_text(
    samples: Sequence[str], continued: Sequence[Written], stories: Sequence[str], seed: int
) -> dict[str, float | None]:
    references = [written.reference or "" for written in continued]
    picked = np.random.default_rng(seed).permutation(len(stories))[: len(samples)]
    return {
        "bleu": text.bleu([written.continuation for written in continued], references) if continued else None,
        "bleu_free": text.bleu_free(samples, [stories[i] for i in picked]),
        "self_bleu": text.self_bleu(samples),
        "distinct_1": text.distinct(samples, 1),
        "distinct_2": text.distinct(samples, 2),
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


def _sample(sample: Sample) -> dict[str, Any]:
    """Without its token ids, which stand in samples.jsonl."""
    return {"text": sample.text, "prompt": sample.prompt, "seed": sample.seed, "number": sample.number}


def _line(written: Written) -> dict[str, Any]:
    kind = "free" if written.reference is None else "continuation"
    return {
        "kind": kind,
        **asdict(written.sample),
        "continuation": written.continuation,
        "reference": written.reference,
    }


def _json(document: Any, indent: int | None = None) -> str:
    return json.dumps(document, ensure_ascii=False, indent=indent, allow_nan=False)
