"""Commands that make something of a MODEL: evaluate, render, export."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ddlm.cli.writing import JsonOption, ModelArgument, PromptArgument, SeedOption, StepsOption, sampling_from
from ddlm.config import parse_override
from ddlm.diffusion import SamplingConfig
from ddlm.experiment.evaluations import settings_of
from ddlm.export import ExportConfig
from ddlm.rendering import RenderingConfig, require_theme

WIDE = 110
"""Columns of a terminal from which on a sentence fits beside each score."""


def add_to(app: typer.Typer) -> None:
    for command in (evaluate, render, export):
        app.command()(command)


def evaluate(
    model: ModelArgument,
    data: Annotated[Path, typer.Option(help="Stories: parquet, jsonl or txt.", show_default=False)],
    budget: Annotated[str, typer.Option(help="quick, standard or full.")] = "standard",
    judge: Annotated[str | None, typer.Option(help="A causal model of transformers: a folder or a hub id.")] = None,
    twin: Annotated[str | None, typer.Option(help="The autoregressive MODEL to set beside it.")] = None,
    pairs: Annotated[str | None, typer.Option(help="Minimal pairs: jsonl in BLiMP's format, or a folder.")] = None,
    frontier: Annotated[bool, typer.Option("--frontier", help="Let the judge compare ways of writing.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A folder for report.html, scores.json and the pictures.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any key of [evaluation] or [sampling]."),
    ] = None,
    seed: SeedOption = 0,
    json_: JsonOption = False,
) -> None:
    """Score a model on stories that it was not trained on. With `torchrun -m ddlm` several processes share the rows.

    Examples:

      ddlm evaluate quick --data validation.parquet --budget quick --json

      ddlm evaluate quick --data validation.parquet --twin twin --judge stories15M --frontier -o report
    """
    given = {"judge": judge, "twin": twin, "pairs": pairs, "frontier": budget if frontier else None}
    chosen = {f"evaluation.{name}": value for name, value in given.items() if value is not None}
    wanted = settings_of(budget, chosen | dict(map(parse_override, set_ or [])))
    from ddlm.data.corpus import read_source
    from ddlm.evaluation import scores, stage
    from ddlm.evaluation.sweep import Sweep, processes
    from ddlm.generation import DiffusionPipeline

    stories = read_source(data)
    pipeline = DiffusionPipeline.from_pretrained(model, "auto")
    with processes() as (index, count):
        sweep = Sweep(wanted.evaluation.batch_size, pipeline.device, index, count, label="scoring, batches")
        found = scores.evaluate(
            pipeline, stories, model=model, evaluation=wanted.evaluation, sampling=wanted.sampling, seed=seed,
            layout=pipeline.config.layout, sweep=sweep,
        )  # fmt: skip
    if found is None:
        return
    if output:
        output.mkdir(parents=True, exist_ok=True)
        stage.write(found, output, stories)
    typer.echo(json.dumps(found.scores)) if json_ else show(found.scores)


def show(scores: Mapping[str, Any]) -> None:
    """A table with intervals; and, where there is room, what each number is."""
    from rich.console import Console
    from rich.table import Table

    from ddlm.evaluation.measures import LIKELIHOOD, TEXT, rows

    console = Console()
    titles = ["score", "this model", "real stories", "what it is"]
    shown = len(titles) if console.width >= WIDE else len(titles) - 1
    table = Table(*titles[:shown], box=None, header_style="dim", pad_edge=False)
    for row in rows(scores, LIKELIHOOD + TEXT):
        table.add_row(*row[:shown])
    console.print(table)


def render(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="A .gif or .png file.", show_default=False)],
    prompt: PromptArgument = "",
    theme: Annotated[str, typer.Option(help="paper, terminal or neon.")] = "paper",
    steps: StepsOption = None,
    seed: SeedOption = 0,
) -> None:
    """Film a denoising.

    Example: ddlm render quick "One day" --theme neon -o denoising.gif
    """
    require_theme(theme)
    from ddlm.generation import DiffusionPipeline
    from ddlm.rendering.stage import render_file, require_suffix

    require_suffix(output)
    pipeline = DiffusionPipeline.from_pretrained(model, "auto")
    frames = pipeline.frames(prompt, sampling=sampling_from(steps), seed=seed)
    render_file(frames, output, RenderingConfig(theme=theme, prompt=prompt))
    typer.echo(str(output))


def export(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle's folder.", show_default=False)],
    data: Annotated[Path | None, typer.Option(help="Stories to check the graph on.")] = None,
    seed: SeedOption = 0,
) -> None:
    """Make a bundle for a Jetson: ONNX graph, tokenizer, and a program that needs neither torch nor ddlm.

    Example: ddlm export quick -o bundle
    """
    from ddlm.data.corpus import read_source
    from ddlm.evaluation.subject import rows_from_texts
    from ddlm.export.stage import export_bundle
    from ddlm.generation import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(model)
    rows = None
    if data:
        rows = rows_from_texts(pipeline.tokenizer, read_source(data), pipeline.seq_len)[0].tokens
    export_bundle(pipeline, output, sampling=SamplingConfig(), export=ExportConfig(), rows=rows, seed=seed)
    typer.echo(str(output))
