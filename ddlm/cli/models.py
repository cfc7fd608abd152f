"""Commands that take a MODEL: generate, infill, evaluate, render, export."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddlm.config import UserError, parse
from ddlm.diffusion import SamplingConfig
from ddlm.evaluation import BUDGETS
from ddlm.export import ExportConfig
from ddlm.rendering import RenderingConfig, require_theme

if TYPE_CHECKING:
    from ddlm.generation import Generation

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model folder, an experiment's name, or a hub id.", show_default=False)
]
PromptArgument = Annotated[str, typer.Argument(metavar="[PROMPT]", help="How the text begins.", show_default=False)]
SamplesOption = Annotated[int, typer.Option("--samples", min=1, help="How many texts.")]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Sampler steps.")]
UnmaskingOption = Annotated[str | None, typer.Option("--unmasking", help="confidence or random.")]
TemperatureOption = Annotated[float | None, typer.Option(help="0 takes the most likely tokens.")]
TopPOption = Annotated[float | None, typer.Option("--top-p", help="Draw from the likeliest tokens of this mass.")]
TopKOption = Annotated[int | None, typer.Option("--top-k", help="The so many most likely tokens.")]
SeedOption = Annotated[int, typer.Option(help="The same seed writes the same text.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def add_to(app: typer.Typer) -> None:
    for command in (generate, infill, evaluate, render, export):
        app.command()(command)


def generate(
    model: ModelArgument,
    prompt: PromptArgument = "",
    samples: SamplesOption = 1,
    steps: StepsOption = None,
    unmasking: UnmaskingOption = None,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    length: Annotated[int | None, typer.Option(help="Tokens to write at most.")] = None,
    seed: SeedOption = 0,
    watch: Annotated[bool, typer.Option("--watch", help="Show the denoising in the terminal.")] = False,
    json_: JsonOption = False,
) -> None:
    """Write text.

    Examples:

      ddlm generate quick "Once upon a time"

      ddlm generate quick --samples 3 --steps 32 --seed 7 --json
    """
    from ddlm.generation import DiffusionPipeline
    from ddlm.model.device import pick_device

    if watch and json_:
        raise UserError("--watch and --json: stdout can hold one of them; leave one out")
    sampling = sampling_from(steps, unmasking, temperature, top_p, top_k)
    pipeline = DiffusionPipeline.from_pretrained(model, pick_device("auto"))
    if watch:
        from ddlm.cli.watch import watching

        with watching(pipeline, prompt) as observer:
            made = pipeline.generate(
                prompt, num_samples=samples, sampling=sampling, seed=seed, length=length, observer=observer
            )
    else:
        made = pipeline.generate(prompt, num_samples=samples, sampling=sampling, seed=seed, length=length)
    write(made, json_)


def infill(
    model: ModelArgument,
    text: Annotated[str, typer.Argument(help="Text with gaps: ___ or, five tokens long, ___[5].", show_default=False)],
    samples: SamplesOption = 1,
    steps: StepsOption = None,
    unmasking: UnmaskingOption = None,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    seed: SeedOption = 0,
    json_: JsonOption = False,
) -> None:
    """Fill the gaps of a text.

    Example: ddlm infill quick "Once there was a ___ who ___[5]."
    """
    from ddlm.generation import DiffusionPipeline
    from ddlm.model.device import pick_device

    sampling = sampling_from(steps, unmasking, temperature, top_p, top_k)
    pipeline = DiffusionPipeline.from_pretrained(model, pick_device("auto"))
    write(pipeline.infill(text, num_samples=samples, sampling=sampling, seed=seed), json_)


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
    from ddlm.model.device import pick_device

    stories = read_source(data)
    scores = stage.evaluate(
        DiffusionPipeline.from_pretrained(model, pick_device("auto")), stories, model=model, evaluation=BUDGETS[budget],
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
    from ddlm.model.device import pick_device
    from ddlm.rendering.stage import render_file, require_suffix

    require_suffix(output)
    pipeline = DiffusionPipeline.from_pretrained(model, pick_device("auto"))
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


def sampling_from(
    steps: int | None = None,
    unmasking: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
) -> SamplingConfig:
    """The defaults with what the command line gives. Raises: UserError for a value out of range."""
    given: dict[str, Any] = {
        "num_sampling_steps": steps, "unmasking": unmasking, "temperature": temperature, "top_p": top_p, "top_k": top_k,
    }  # fmt: skip
    return parse(SamplingConfig, {key: value for key, value in given.items() if value is not None}, source="sampling")


def write(made: "Generation", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(made)))
    else:
        typer.echo("\n\n".join(sample.text for sample in made.samples))
