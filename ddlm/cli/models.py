"""Commands that make something of a MODEL: evaluate, render, export."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ddlm.cli.loading import find_model, load
from ddlm.cli.paths import expanded, make_folder, require_readable, require_writable
from ddlm.cli.writing import JsonOption, LengthOption, ModelArgument, PromptArgument, SeedOption, StepsOption
from ddlm.config import Section, parse, parse_override, with_overrides
from ddlm.diffusion import SamplingConfig
from ddlm.experiment.evaluations import read_data, settings_of
from ddlm.export import ExportConfig
from ddlm.rendering import THEME_NAMES, RenderingConfig, require_theme
from ddlm.rendering.names import require_suffix

TextFieldOption = Annotated[
    str | None,
    typer.Option(help="The column of the text in --data; if absent, the one that MODEL was trained on, or text."),
]
WIDE = 110
"""Columns of a terminal from which on a sentence fits beside each score."""


def add_to(app: typer.Typer) -> None:
    for command in (evaluate, render, export):
        app.command()(command)


def evaluate(
    model: ModelArgument,
    data: Annotated[Path, typer.Option(help="Stories: parquet, jsonl or txt.", show_default=False, callback=expanded)],
    text_field: TextFieldOption = None,
    budget: Annotated[str, typer.Option(help="quick, standard or full.")] = "standard",
    judge: Annotated[str | None, typer.Option(help="A causal model of transformers: a folder or a hub id.")] = None,
    twin: Annotated[str | None, typer.Option(help="The autoregressive MODEL to set beside it.")] = None,
    pairs: Annotated[str | None, typer.Option(help="Minimal pairs: jsonl in BLiMP's format, or a folder.")] = None,
    frontier: Annotated[bool, typer.Option("--frontier", help="Let the judge compare ways of writing.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="A folder for report.html, scores.json and the pictures.", callback=expanded
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any key of \\[evaluation] or \\[sampling]."),
    ] = None,
    seed: SeedOption = 0,
    json_: JsonOption = False,
) -> None:
    """Score a model on stories that it was not trained on. With `torchrun -m ddlm` several processes share the rows.

    Examples:

      ddlm evaluate quick --data outputs/quick/validation.parquet --budget quick --json

      ddlm evaluate quick --data outputs/quick/validation.parquet --twin twin --judge stories15M --frontier -o report
    """
    given = {"judge": judge, "twin": twin, "pairs": pairs, "frontier": budget if frontier else None}
    chosen = {f"evaluation.{name}": value for name, value in given.items() if value is not None}
    wanted = settings_of(budget, chosen | dict(map(parse_override, set_ or [])))
    require_readable("--data", data)
    folder = find_model(model, quiet=json_)
    if wanted.evaluation.twin:
        find_model(wanted.evaluation.twin, quiet=json_)
    if output:
        make_folder(output)
    stories, pipeline = read_data(data, folder, text_field), load(model, quiet=json_)
    from ddlm.evaluation import scores, stage
    from ddlm.evaluation.sweep import Sweep, processes

    with processes() as (index, count):
        sweep = Sweep(wanted.evaluation.batch_size, pipeline.device, index, count, label="bound, batches")
        found = scores.evaluate(
            pipeline, stories, model=model, evaluation=wanted.evaluation, sampling=wanted.sampling, seed=seed,
            layout=pipeline.config.layout, sweep=sweep, text_name=data.name,
        )  # fmt: skip
    if found is None:
        return
    if output:
        stage.write(found, output, stories)
    typer.echo(json.dumps(found.scores)) if json_ else show(found.scores)


def show(scores: Mapping[str, Any]) -> None:
    """A table with intervals; and, where there is room, what each number is."""
    from rich.console import Console
    from rich.table import Table

    from ddlm.evaluation.measures import LIKELIHOOD, TEXT, measured_on, rows

    console, lines = Console(), list(rows(scores, LIKELIHOOD + TEXT))
    titles = ["score", "this model", "real stories", "what it is"]
    has_stories = any(beside for _, _, beside, _ in lines)
    shown = [0, 1, *[2] * has_stories, *[3] * (console.width >= WIDE)]
    table = Table(*(titles[column] for column in shown), box=None, header_style="dim", pad_edge=False)
    for line in lines:
        table.add_row(*(line[column] for column in shown))
    console.print(table)
    console.print(f"measured on {measured_on(scores)}", markup=False, soft_wrap=True)


def render(
    model: ModelArgument,
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="A film: .gif, .apng, .webp or .mp4. Its end: .png.",
            show_default=False,
            callback=expanded,
        ),
    ],
    prompt: PromptArgument = "",
    theme: Annotated[str, typer.Option(help=f"{', '.join(THEME_NAMES[:-1])} or {THEME_NAMES[-1]}.")] = "paper",
    sheet: Annotated[
        int | None, typer.Option(help="So many moments in one .png, from the first to the last.", metavar="MOMENTS")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    font_size: Annotated[int | None, typer.Option(help="Pixels; a text too long for one picture has pages.")] = None,
    steps: StepsOption = None,
    length: LengthOption = None,
    seed: SeedOption = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any other key of \\[rendering] or \\[sampling]."),
    ] = None,
) -> None:
    """Film a denoising.

    Examples:

      ddlm render quick "One day" --theme neon -o denoising.gif

      ddlm render quick "One day" --theme heat --sheet 6 -o moments.png

      ddlm render quick --width 1200 --height 700 --set rendering.hold_s=4 -o denoising.webp
    """
    given = {
        "rendering.theme": require_theme(theme), "rendering.prompt": prompt, "rendering.width": width,
        "rendering.height": height, "rendering.font_size": font_size, "rendering.moments": sheet,
        "sampling.num_sampling_steps": steps,
    }  # fmt: skip
    chosen = {key: value for key, value in given.items() if value is not None}
    wanted = parse(Filmed, with_overrides({}, chosen | dict(map(parse_override, set_ or []))), source="render")
    require_suffix(output, sheet=sheet is not None)
    require_writable(output)
    pipeline = load(model)
    from ddlm.rendering.files import render_file

    frames = pipeline.frames(wanted.rendering.prompt, sampling=wanted.sampling, seed=seed, length=length)
    pictures = render_file(frames, output, wanted.rendering, sheet=sheet is not None)
    shown = f"{pictures} pictures" if pictures > 1 else "a picture"
    typer.echo(f"{output}: {shown} of {frames[-1].step} steps")


class Filmed(Section):
    """What `ddlm render` may be told."""

    sampling: SamplingConfig = SamplingConfig()
    rendering: RenderingConfig = RenderingConfig()


def export(
    model: ModelArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The bundle's folder.", show_default=False, callback=expanded)
    ],
    data: Annotated[
        Path | None, typer.Option(help="Stories to check and quantise the graphs on.", callback=expanded)
    ] = None,
    text_field: TextFieldOption = None,
    web: Annotated[bool, typer.Option("--web", help="Instead a page that runs the model in the browser.")] = False,
    seed: SeedOption = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any key of \\[export] or \\[sampling]."),
    ] = None,
) -> None:
    """Make a bundle for a Jetson: ONNX graphs, tokenizer, and a program that needs neither torch nor ddlm.

    Examples:

      ddlm export quick -o bundle --data outputs/quick/validation.parquet

      ddlm export quick -o bundle --set export.lengths=[64,128] --set sampling.num_sampling_steps=32

      ddlm export quick --web -o site
    """
    wanted = parse(Exported, with_overrides({}, dict(map(parse_override, set_ or []))), source="export")
    if data:
        require_readable("--data", data)
    require_writable(output, parents=True)
    pipeline = load(model, "float32", device="cpu")
    from ddlm.evaluation.subject import rows_from_texts
    from ddlm.export.stage import export_bundle
    from ddlm.export.text import Text

    text = None
    if data:
        limit = max(wanted.export.check_batches, wanted.export.quality_rows)
        stories = read_data(data, find_model(model), text_field)
        text = Text.divided(*rows_from_texts(pipeline.tokenizer, stories, pipeline.seq_len), limit)
    settings: dict[str, Any] = {"sampling": wanted.sampling, "export": wanted.export, "seed": seed}
    if web:
        from ddlm.export.web.site import export_site, title_of

        rows = None if text is None else text.rows.tokens
        site = export_site(pipeline, output, title=title_of(model), rows=rows, **settings)
        typer.echo(f"{output}\n{site}")
        return
    show_made(export_bundle(pipeline, output, text=text, **settings))
    typer.echo(str(output))


class Exported(Section):
    """What `ddlm export` may be told."""

    sampling: SamplingConfig = SamplingConfig()
    export: ExportConfig = ExportConfig()


def show_made(made: Any) -> None:
    """A row a graph with what it passed, and one with what was skipped; then what quantised networks lose."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ddlm.export.quality import table

    rows: dict[tuple[str, str], list[str]] = {}
    for gate in made.gates:
        told = f"{gate.name}: {gate.detail}" if gate.detail else gate.name
        rows.setdefault((gate.graph, gate.result), []).append(told)
    gates = Table("graph", "result", "gates", box=None, header_style="dim", pad_edge=False)
    for (graph, result), told in rows.items():
        gates.add_row(graph, result, escape("; ".join(told)))
    Console().print(gates)
    if made.quality:
        typer.echo(f"\n{table(made.quality)}")
    for name, why in made.left_out.items():
        typer.echo(f"{name} is left out: {why}")
