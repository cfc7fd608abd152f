"""Commands about this machine: bench, artifacts, doctor."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ddlm.artifacts import open_store, size_bytes
from ddlm.config import UserError
from ddlm.experiment import Experiment, load_experiment

bench = typer.Typer(no_args_is_help=True, help="Measure speed: tokenize, load, train, sample.")
artifacts = typer.Typer(no_args_is_help=True, help="Look into the artifact store and tidy it.")
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
    profile: Annotated[Path | None, typer.Option(help="Write a torch trace into this folder.")] = None,
) -> None:
    """Training steps by part, against the rate at which this machine multiplies matrices.

    Examples:

      ddlm bench train configs/small.toml --set training.batch_size=16

      ddlm bench train configs/small.toml --set model.preset=xlarge --steps 2 --profile trace
    """
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


@artifacts.command("list")
def list_artifacts() -> None:
    """Every whole artifact: stage, key, size; whether an experiment here uses it, or only the shared store has it."""
    from ddlm.experiment.view import in_use

    store, used = open_store(), in_use()
    for artifact in store:
        mark = "used" if artifact.path.resolve() in used else ""
        typer.echo(f"{artifact.stage:10} {artifact.key} {size_bytes(artifact.path) / 1e6:10.2f} MB {mark}")
    if store.remote:
        for (stage, key), size in store.remote.artifacts().items():
            if not (store.root / stage / key).exists():
                typer.echo(f"{stage:10} {key} {size / 1e6:10.2f} MB in {store.remote.url}")


@artifacts.command("gc")
def collect_artifacts(
    keep_days: Annotated[float | None, typer.Option(min=0, help="Keep what is younger.")] = None,
    max_bytes: Annotated[int | None, typer.Option(min=0, help="Shrink the store to this.")] = None,
) -> None:
    """Remove artifacts that no experiment's folder here uses. A shared store is left as it is: others use it too."""
    from ddlm.experiment.view import in_use

    store = open_store()
    removed = store.collect(in_use(), keep_days=keep_days, max_bytes=max_bytes)
    left = f"; {store.remote.url} was left as it is, since other machines use it" if store.remote else ""
    typer.echo("\n".join([*map(str, removed), f"removed {len(removed)}{left}"]))


def doctor(json_: JsonOption = False) -> None:
    """Versions, hardware, precision, servers, free disk."""
    from ddlm.bench.doctor import examine

    report(examine(), json_)


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
            typer.echo(f"{name:24} {line:,.6g}" if isinstance(line, float) else f"{name:24} {line}")
