"""The evaluate stage: score a model folder on the validation part of its corpus, and write down what was found."""

import csv
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ddlm.artifacts import Workspace, sha256_file
from ddlm.data.corpus import read_stories
from ddlm.data.shards import read_manifest
from ddlm.diffusion import SamplingConfig
from ddlm.evaluation import EvaluationConfig, frontier, measures, plots, report
from ddlm.evaluation.scores import Evaluation, evaluate
from ddlm.evaluation.written import Written
from ddlm.generation import DiffusionPipeline, with_ellipsis
from ddlm.model.source import WEIGHTS

logger = logging.getLogger(__name__)


def build(
    workspace: Workspace,
    *,
    seed: int,
    sampling: SamplingConfig,
    evaluation: EvaluationConfig,
    source: Mapping[str, str],
) -> None:
    """Write scores.json, samples.jsonl, row_nats.parquet, the plots and report.html."""
    del source
    corpus, shards, train = (workspace.inputs[name] for name in ("corpus", "shards", "train"))
    stories = read_stories(corpus, "validation")
    result = evaluate(
        DiffusionPipeline.from_pretrained(train, "auto"),
        stories,
        layout=read_manifest(shards)["layout"],
        training_stories=read_stories(corpus, "train", limit=evaluation.corpus_stories),
        model=f"sha256:{sha256_file(train / WEIGHTS)}",
        evaluation=evaluation,
        sampling=sampling,
        seed=seed,
        text_name=name_of(corpus),
    )
    assert result
    logger.info("evaluate: %s", measures.headline(result.scores))
    workspace.run.log(measures.numbers_of(result.scores), step=0)
    write(result, workspace.output, stories, read_curve(train / "curve.csv"))


def name_of(corpus: Path) -> str | None:
    """Where a corpus comes from, for people: a file's name is nobody's business."""
    source = json.loads((corpus / "report.json").read_bytes())["source"]
    return "the bundled sample" if source["kind"] == "sample" else source.get("dataset")


def write(
    result: Evaluation, folder: Path, stories: Sequence[str], curve: Mapping[str, plots.Points] | None = None
) -> None:
    """Write everything that an evaluation leaves behind. curve: of the training, where it is known."""
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
    images = _draw(result, folder, stories, curve)
    pairs = [
        (
            written.sample.prompt,
            with_ellipsis(written.continuation, ended=written.sample.ended),
            written.reference or "",
        )
        for written in result.continued
    ]
    page = report.page(result.scores, pairs, result.real, images, result.frames)
    (folder / "report.html").write_text(page, encoding="utf-8")


def read_curve(path: Path) -> dict[str, plots.Points]:
    """The measured points of each column of a training curve, by step."""
    with path.open(newline="", encoding="utf-8") as handle:
        lines = list(csv.DictReader(handle))
    names = [name for name in (lines[0] if lines else {}) if name != "step"]
    return {name: [(float(line["step"]), float(line[name])) for line in lines if line[name]] for name in names}


def _draw(
    result: Evaluation, folder: Path, stories: Sequence[str], curve: Mapping[str, plots.Points] | None
) -> dict[str, Path]:
    """The pictures that there is something to draw for, by name."""
    samples = [written.sample.text for written in result.free]
    scores, intervals = result.scores, _intervals(result.scores)
    points = [frontier.Point(**point) for point in scores.get("frontier", [])]
    drawn: tuple[tuple[str, Any, Callable[[Any, Path], None]], ...] = (
        ("lengths", {"samples": samples, "validation stories": stories}, plots.draw_lengths),
        ("intervals", intervals if len(intervals) > 1 else None, plots.draw_intervals),
        ("curve", curve, plots.draw_curve),
        ("mask_rates", scores.get("mask_rate_curve"), plots.draw_mask_rates),
        ("calibration", scores.get("calibration"), plots.draw_calibration),
        ("order", result.frames, plots.draw_order),
        ("frontier", points, frontier.plot),
        ("latency", scores.get("frontier"), plots.draw_latency),
    )
    images = {name: folder / f"{name}.png" for name, content, _ in drawn if content}
    for name, content, draw in drawn:
        if content:
            draw(content, images[name])
    return images


def _intervals(scores: Mapping[str, Any]) -> dict[str, tuple[float, tuple[float, float]]]:
    """Every value in bits per byte with an interval, by what it is."""
    stories = scores["data"]["stories"]
    first = "any order, bound" if scores["bound"] == "upper" else "left to right, exact"
    found = {f"{first} ({stories:,} stories)": scores, f"twin, exact ({stories:,} stories)": scores.get("twin")}
    for name, value in scores.get("chain_rule", {}).items():
        kind = "bound" if value["bound"] == "upper" else "exact"
        found[f"{name.replace('_', ' ')}, {kind} ({value['stories']:,} stories)"] = value
    return {
        label: (value["bits_per_byte"], tuple(value["bits_per_byte_interval"]))
        for label, value in found.items()
        if value and value["bits_per_byte_interval"]
    }


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
