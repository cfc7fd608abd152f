"""Commands that write text: generate, infill, chat."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddlm.cli.loading import load
from ddlm.config import Section, UserError, parse, parse_override
from ddlm.diffusion import SamplingConfig

if TYPE_CHECKING:
    from ddlm.cli.watch import Observer
    from ddlm.generation import Generation

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="An experiment's name, a folder, NAME@ALIAS, or a hub id.", show_default=False
    ),
]
PromptArgument = Annotated[str, typer.Argument(metavar="[PROMPT]", help="How the text begins.", show_default=False)]
SamplesOption = Annotated[int, typer.Option("--samples", min=1, max=100_000, help="How many texts.")]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Sampler steps, at most.")]
UnmaskingOption = Annotated[
    str | None,
    typer.Option("--unmasking", help="Which words come first: confidence, margin, random, threshold and others."),
]
TemperatureOption = Annotated[float | None, typer.Option(help="0 takes the most likely tokens.")]
TopPOption = Annotated[float | None, typer.Option("--top-p", help="Draw from the likeliest tokens of this mass.")]
TopKOption = Annotated[int | None, typer.Option("--top-k", help="Draw from the K likeliest tokens.")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed writes the same text.")]
LengthOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=1_000_000, help="Tokens to write after the prompt, exactly. The model decides when absent."
    ),
]
PrecisionOption = Annotated[
    str, typer.Option(help="float32: a seed's text is the same everywhere; bfloat16; auto: the faster one here.")
]
CompileOption = Annotated[
    str, typer.Option("--compile", help="on, off, or auto: compile the network where that is faster in all.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="sampling.KEY=VALUE", help="Any other key of \\[sampling].")
]
WatchOption = Annotated[bool, typer.Option("--watch", help="Show the denoising in the terminal.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def add_to(app: typer.Typer) -> None:
    for command in (generate, infill, chat):
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
    length: LengthOption = None,
    seed: SeedOption = 0,
    precision: PrecisionOption = "auto",
    compile_: CompileOption = "auto",
    set_: SetOption = None,
    watch: WatchOption = False,
    json_: JsonOption = False,
) -> None:
    """Write text.

    Examples:

      ddlm generate quick "Once upon a time" --watch

      ddlm generate quick --samples 3 --steps 32 --seed 7 --json

      ddlm generate quick --unmasking threshold --set sampling.threshold=0.8 --length 600
    """
    sampling = sampling_from(steps, unmasking, temperature, top_p, top_k, set_)
    require_sense(watch, json_)
    pipeline = load(model, precision, compile_, quiet=json_)
    wanted: dict[str, Any] = {"num_samples": samples, "sampling": sampling, "seed": seed, "length": length}
    write(lambda observer: pipeline.generate(prompt, **wanted, observer=observer), watch, json_)


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
    precision: PrecisionOption = "auto",
    set_: SetOption = None,
    watch: WatchOption = False,
    json_: JsonOption = False,
) -> None:
    """Fill the gaps of a text. For a gap without a length, several are tried.

    Example: ddlm infill quick "Once there was a ___ who ___[5]."
    """
    sampling = sampling_from(steps, unmasking, temperature, top_p, top_k, set_)
    require_sense(watch, json_)
    pipeline = load(model, precision, quiet=json_)
    wanted: dict[str, Any] = {"num_samples": samples, "sampling": sampling, "seed": seed}
    write(lambda observer: pipeline.infill(text, **wanted, observer=observer), watch, json_)


def chat(
    model: ModelArgument,
    system: Annotated[str | None, typer.Option(help="What the assistant is told beforehand.")] = None,
    steps: StepsOption = None,
    unmasking: UnmaskingOption = None,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    seed: SeedOption = 0,
    precision: PrecisionOption = "auto",
    set_: SetOption = None,
) -> None:
    """Talk with a model that was trained with tokenizer.chat=true: a line is a message, an empty one or Ctrl-D ends.

    Example: ddlm chat budget_100 --system "You tell short stories."
    """
    sampling = sampling_from(steps, unmasking, temperature, top_p, top_k, set_)
    pipeline = load(model, precision)
    pipeline.tokenizer.encode_chat([])  # refused before anyone has typed a word
    from ddlm.cli.watch import observing
    from ddlm.generation import with_ellipsis

    turns = [("system", system)] if system else []
    while message := read_message():
        turns.append(("user", message))
        with observing(sys.stdout.isatty()) as observer:
            reply = pipeline.reply(turns, sampling=sampling, seed=seed, observer=observer).samples[0]
        turns.append(("assistant", reply.text))
        typer.echo(with_ellipsis(reply.text, ended=reply.ended))


def read_message() -> str:
    """A line, without a prompt where nobody types; empty at the end."""
    try:
        return input("you: " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


def sampling_from(
    steps: int | None = None,
    unmasking: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    others: list[str] | None = None,
) -> SamplingConfig:
    """The defaults with what the command line gives. Raises: UserError for an unknown key or a value out of range."""
    given: dict[str, Any] = {
        "num_sampling_steps": steps, "unmasking": unmasking, "temperature": temperature, "top_p": top_p, "top_k": top_k,
    }  # fmt: skip
    for key, value in map(parse_override, others or []):
        section, _, name = key.partition(".")
        if section != "sampling" or not name:
            raise UserError(f"--set {key}: this command takes keys of sampling only; write sampling.KEY=VALUE")
        given[name] = value
    chosen = {key: value for key, value in given.items() if value is not None}
    try:
        return parse(Chosen, {"sampling": chosen}, source="settings").sampling
    except UserError as error:
        raise UserError(named_as_typed(str(error))) from None


def named_as_typed(line: str) -> str:
    """What is wrong with an option by the option's name."""
    for name, option in OPTIONS.items():
        line = line.replace(f"sampling.{name}:", f"{option}:")
    return line.removeprefix("settings: ")


OPTIONS = {
    "num_sampling_steps": "--steps", "unmasking": "--unmasking", "temperature": "--temperature", "top_p": "--top-p",
    "top_k": "--top-k",
}  # fmt: skip


class Chosen(Section):
    """So that what is wrong is named as it is written: sampling.KEY."""

    sampling: SamplingConfig


def require_sense(watch: bool, json_: bool) -> None:
    """Raises: UserError for two things on one stdout."""
    if watch and json_:
        raise UserError("--watch and --json: stdout can hold one of them; leave one out")


def write(make: "Callable[[Observer | None], Generation]", watch: bool, as_json: bool) -> None:
    """Make texts, watched or behind a bar, and put them on stdout."""
    from ddlm.cli.watch import observing
    from ddlm.generation import with_ellipsis

    with observing(watch) as observer:
        made = make(observer)
    shown = [with_ellipsis(sample.text, ended=sample.ended) for sample in made.samples]
    typer.echo(json.dumps(asdict(made)) if as_json else told_apart(shown))


def told_apart(texts: Sequence[str]) -> str:
    """One text as it is; several, each of which may have empty lines, below its number."""
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"── {number} of {len(texts)} ──\n{text}" for number, text in enumerate(texts, 1))
