"""Commands about this machine: bench, artifacts, doctor."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ddlm.artifacts import collect_shared, open_store, parents_of, size_bytes
from ddlm.cli.loading import saying
from ddlm.cli.paths import expanded, make_folder
from ddlm.config import UserError
from ddlm.experiment import Experiment, load_experiment

bench = typer.Typer(help="Measure speed: tokenize, load, train, sample, device, roofline.")
artifacts = typer.Typer(help="Look into the artifact store and tidy it.")
ConfigArgument = Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="A small model when absent.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def add_to(app: typer.Typer) -> None:
    app.add_typer(bench, name="bench")
    app.add_typer(artifacts, name="artifacts")
    app.command()(doctor)


@bench.command("tokenize")
def bench_tokenize(config: ConfigArgument = None, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Tokenise and pack, against the bare tokenizer on the same text."""
    from ddlm.bench.tokenize import measure

    report(measure(experiment_of(config, set_)), json_)


@bench.command("load")
def bench_load(config: ConfigArgument = None, set_: SetOption = None, json_: JsonOption = False) -> None:
    """The loader's tokens a second on one core."""
    from ddlm.bench.load import measure

    report(measure(experiment_of(config, set_)), json_)


@bench.command("train")
def bench_train(
    config: ConfigArgument = None,
    set_: SetOption = None,
    json_: JsonOption = False,
    steps: Annotated[int, typer.Option(min=1, help="Steps to measure.")] = 10,
    profile: Annotated[
        Path | None, typer.Option(help="Write a torch trace into this folder.", callback=expanded)
    ] = None,
) -> None:
    """Training steps by part, against the rate at which this machine multiplies matrices.

    Examples:

      ddlm bench train configs/small.toml --set training.batch_size=16

      ddlm bench train configs/small.toml --set model.preset=xlarge --steps 2 --profile trace
    """
    if profile:
        make_folder(profile)
    from ddlm.bench.train import measure

    report(measure(experiment_of(config, set_), steps=steps, trace=profile), json_)


@bench.command("sample")
def bench_sample(
    config: ConfigArgument = None,
    set_: SetOption = None,
    json_: JsonOption = False,
    model: Annotated[str | None, typer.Option(help="A trained model in place of random weights.")] = None,
    unmasking: Annotated[list[str] | None, typer.Option(help="Only this policy; may be given again.")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Only this batch size; may be given again.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps; 50 for one text, 25 for more.")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network first.")] = False,
) -> None:
    """Sampling by policy and batch size: network calls, milliseconds a call, tokens a second, time outside the network.

    Examples:

      ddlm bench sample configs/small.toml --unmasking confidence --batch 1 --batch 8

      ddlm bench sample --model quick --unmasking threshold --steps 256 --json
    """
    from ddlm.bench.sample import measure
    from ddlm.diffusion.unmasking import POLICIES

    if unknown := set(unmasking or []) - set(POLICIES):
        raise UserError(f"unknown unmasking {min(unknown)!r}; wanted one of {', '.join(POLICIES)}")
    experiment = experiment_of(config, set_)
    wanted: dict[str, Any] = {"unmasking": unmasking or (), "batch_sizes": batch or ()}
    report(measure(experiment, model=model, steps=steps, compiled=compiled, **wanted), json_)


@bench.command("device")
def bench_device(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A folder that `ddlm export` wrote.", callback=expanded)
    ],
    steps: Annotated[list[int] | None, typer.Option(min=1, help="Sampling steps; may be given again.")] = None,
    unmasking: Annotated[list[str] | None, typer.Option(help="A policy; may be given again.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="Only graphs in this; may be given again.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only graphs of this kind: logits or step.")] = None,
    texts: Annotated[int, typer.Option(min=1, max=10_000, help="Texts for each way of writing.")] = 4,
    threads: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Processor threads; every core when absent.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Stories, for bits per byte.", callback=expanded)] = None,
    text_field: Annotated[str, typer.Option(help="The column of the text in --data.")] = "text",
    rows: Annotated[int, typer.Option(min=2, max=10_000, help="Rows of them.")] = 16,
    judge: Annotated[str | None, typer.Option(help="A causal model of transformers: a folder or a hub id.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A folder for device.json and the plot.", callback=expanded),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """What a bundle's graphs cost here in time and memory, and what their texts are worth, by steps and policy.

    Examples:

      ddlm bench device bundle --data outputs/quick/validation.parquet --judge stories15M -o measured

      ddlm bench device bundle --steps 8 --steps 32 --unmasking confidence --unmasking random --kind logits --threads 1
    """
    from ddlm.bench import device, trade

    given = {"steps": steps, "unmasking": unmasking, "precisions": precision, "kinds": kind}
    chosen: dict[str, Any] = {name: tuple(value) for name, value in given.items() if value}
    chosen |= {"texts": texts, "threads": threads, "data": data, "text_field": text_field, "rows": rows}
    plan = device.Plan(**chosen, judge=judge)
    if output:
        make_folder(output)
    found = device.measure(bundle, plan)
    if output:
        (output / "device.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        trade.draw(found, output / "trade.png")
    typer.echo(json.dumps(found) if json_ else trade.table(found))


@bench.command("roofline")
def bench_roofline(
    seq_len: Annotated[int, typer.Option(min=2, max=1_000_000, help="Tokens of the canvas.")] = 256,
    json_: JsonOption = False,
) -> None:
    """An ESTIMATE, on paper, of what a Jetson Orin Nano could do with every preset. Nothing is measured."""
    from ddlm.bench import roofline

    found = roofline.of_presets(seq_len)
    typer.echo(json.dumps(found) if json_ else roofline.table(found))


@artifacts.command("list")
def list_artifacts() -> None:
    """Every whole artifact: stage, key, size, what it was made from; whether an experiment here uses it, or only the
    shared store has it."""
    from ddlm.experiment.view import in_use

    store, used = open_store(), in_use()
    for artifact in store:
        mark = "used" if artifact.path.resolve() in used else ""
        parents = ", ".join(f"{stage}/{key[:8]}" for stage, key in parents_of(artifact.path).items())
        line = f"{artifact.stage:10} {artifact.key} {size_bytes(artifact.path) / 1e6:10.2f} MB {mark:4}"
        typer.echo(f"{line} {f'from {parents}' if parents else ''}".rstrip())
    if store.remote:
        for (stage, key), size in store.remote.artifacts().items():
            if not (store.root / stage / key).exists():
                typer.echo(f"{stage:10} {key} {size / 1e6:10.2f} MB in {store.remote.url}")


@artifacts.command("gc")
def collect_artifacts(
    keep_days: Annotated[float | None, typer.Option(min=0, help="Keep what is younger.")] = None,
    max_bytes: Annotated[int | None, typer.Option(min=0, help="Shrink the store to this.")] = None,
    shared: Annotated[bool, typer.Option("--shared", help="In the store of DDLM_STORE; needs a limit.")] = False,
) -> None:
    """Remove artifacts that no experiment's folder here uses. A shared store is left as it is, but with --shared.

    Examples:

      ddlm artifacts gc --keep-days 30

      ddlm artifacts gc --shared --keep-days 90
    """
    from ddlm.experiment.view import in_use

    store, used = open_store(), in_use()
    if shared:
        if store.remote is None or keep_days is max_bytes is None:
            raise UserError(
                "artifacts gc --shared: wanted DDLM_STORE, a store behind a URL, and --keep-days or --max-bytes"
            )
        places = {(path.parent.name, path.name) for path in used}
        removed = collect_shared(store.remote, places, keep_days=keep_days, max_bytes=max_bytes)
        typer.echo("\n".join([*removed, f"removed {len(removed)} from {store.remote.url}"]))
        return
    here = store.collect(used, keep_days=keep_days, max_bytes=max_bytes)
    left = f"; {store.remote.url} was left as it is, since other machines use it" if store.remote else ""
    typer.echo("\n".join([*map(str, here), f"removed {len(here)}{left}"]))


def doctor(json_: JsonOption = False) -> None:
    """Versions, hardware, precision, servers, free disk."""
    with saying("looking at this machine", quiet=json_):
        from ddlm.bench.doctor import examine

        found = examine()
    report(found, json_)


def experiment_of(config: Path | None, set_: list[str] | None) -> Experiment:
    from ddlm.config import parse_override

    overrides = dict(map(parse_override, set_ or []))
    if config is not None:
        return load_experiment(config, overrides)
    from ddlm.config import parse, with_overrides

    document: dict[str, Any] = {"name": "bench", "corpus": {"source": "sample"}, "tokenizer": {"vocab_size": 2048}}
    return parse(Experiment, with_overrides(document, overrides), source="bench")


def report(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        for line in value if isinstance(value, list) else [value]:
            label = name.removesuffix("_bytes").replace("_", " ")
            typer.echo(f"{label:24} {readable(line, is_size=name.endswith('_bytes'))}")


def readable(value: object, *, is_size: bool) -> str:
    """A figure as people say it; a size in GB or MB."""
    if is_size and isinstance(value, (int, float)):
        return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / 1e6:,.1f} MB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
