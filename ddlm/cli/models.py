"""Commands that make something of a MODEL: evaluate, render, export."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ddlm.cli.writing import JsonOption, ModelArgument, PromptArgument, SeedOption, StepsOption, sampling_from
from ddlm.config import UserError
from ddlm.diffusion import SamplingConfig
from ddlm.evaluation import BUDGETS
from ddlm.export import ExportConfig
from ddlm.rendering import RenderingConfig, require_theme


def add_to(app: typer.Typer) -> None:
    for command in (evaluate, render, export):
        app.command()(command)


def evaluate(
    model: ModelArgument,
    data: Annotated[Path, typer.Option(help="Stories: parquet, jsonl or txt.", show_default=False)],
    budget: Annotated[str, typer.Option(help="quick, standard or full.")] = "standard",
    seed: SeedOption = 0,
    json_: JsonOption = False,
) -> None:
    """Score a model on stories that it was not trained on.

    Example: ddlm evaluate quick --data validation.parquet --budget quick --json
    """
    if budget not in BUDGETS:
        raise UserError(f"unknown budget {budget!r}; wanted one of {', '.join(BUDGETS)}")
    from ddlm.data.corpus import read_source
    from ddlm.evaluation import stage
    from ddlm.generation import DiffusionPipeline

    stories = read_source(data)
    scores = stage.evaluate(
        DiffusionPipeline.from_pretrained(model, "auto"), stories, model=model, evaluation=BUDGETS[budget],
        sampling=SamplingConfig(), seed=seed,
    ).scores  # fmt: skip
    if json_:
        typer.echo(json.dumps(scores))
    else:
        from ddlm.experiment.view import HEADLINES, flat

        numbers = flat(scores)
        for key, label in HEADLINES.items():
            if key in numbers:
                typer.echo(f"{label:42} {numbers[key]:.4g}")


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
    from ddlm.evaluation.stage import rows_from_texts
    from ddlm.export.stage import export_bundle
    from ddlm.generation import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(model)
    rows = None
    if data:
        rows = rows_from_texts(pipeline.tokenizer, read_source(data), pipeline.seq_len)[0].tokens
    export_bundle(pipeline, output, sampling=SamplingConfig(), export=ExportConfig(), rows=rows, seed=seed)
    typer.echo(str(output))
