"""Which recipe is best?

Question. Of some settings of one experiment, which reaches the lowest bound on the same text in the same time, or with
the same number of tokens?

Method. Every arm is the base configuration with overrides, trained by ddlm's own train stage in a process of its own,
with several seeds of initialisation and data order; the tokenizer and the rows are made once an arm. `--minutes` ends
each run by the trainer's clock: the learning rate follows it, and nothing is validated or saved on it. `--tokens` gives
each run as many steps as its batches need, padding counted. Then each is scored on the same stories; `scoring.py` says
what makes other vocabularies, lengths and layouts comparable. Seeds are the outer loop, so that a machine that slows
down is unfair to no arm.

Each run appends a JSON line to `--out`; what stands there is not run again, so a killed sweep goes on. A run that fails
is a line with its error, and is tried again the next time. `--table` prints the file in Markdown, nothing else.

    python benchmarks/recipe.py --minutes 2 --seeds 1 2 --out muon.jsonl --set corpus.source=FOLDER \\
        --arm muon training.optimizer=muon --arm adamw training.optimizer=adamw training.learning_rate=2e-3
    python benchmarks/recipe.py --table --out muon.jsonl
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryDirectory
from typing import Any

import torch
from scoring import argument_parser, choose_stories, digest_of_stories, overrides_of, provenance, score, state_folder

from ddlm.artifacts import Workspace
from ddlm.bench.tokenize import build_inputs, in_fresh_process
from ddlm.config import UserError
from ddlm.experiment import Experiment, load_experiment
from ddlm.experiment.stages import STAGES, load
from ddlm.model.device import pick_device
from ddlm.model.folder import load_model
from ddlm.tokenizer import Tokenizer

NEVER = 10_000_000
"""Steps that no run reaches. To `training.compile=auto` a run by the clock is therefore a long one."""
COLUMNS = ("arm", "n", "bits/byte ≤ (mean ± sd)", "tokens", "tokens/s", "parameters", "minutes")


class Speedometer:
    """A run's log that keeps only when each step was reported."""

    id = None

    def __init__(self) -> None:
        self.marks = [(time.monotonic(), 0)]

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        del metrics
        if step > self.marks[-1][1]:
            self.marks.append((time.monotonic(), step))

    def upload(self, path: Path, folder: str) -> None:
        del path, folder

    def steps_per_s(self) -> float:
        """The median over reports: start, compilation and the last validation do not count."""
        pairs = zip(self.marks, self.marks[1:], strict=False)
        return median((step - before) / (now - since) for (since, before), (now, step) in pairs)


def settings_of(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """All that a line depends on besides its seed."""
    names = ("config", "set", "minutes", "tokens", "threads", "stories", "story_bytes", "masks")
    return {"overrides": overrides, **{name: getattr(args, name) for name in names}}


def load_arm(settings: Mapping[str, Any], seed: int | None = None) -> Experiment:
    """The arm with its budget; the configuration's own seed where none is given."""
    wanted = overrides_of([*settings["set"], *settings["overrides"]])
    arm = load_experiment(settings["config"], wanted)
    budget: dict[str, Any] = {"training.steps": NEVER, "training.max_minutes": settings["minutes"]}
    if settings["tokens"]:
        budget["training.steps"] = -(-settings["tokens"] // (arm.training.batch_size * arm.shards.seq_len))
    quiet = {"training.validate_every_steps": NEVER, "training.save_every_steps": NEVER, "training.log_every_steps": 5}
    budget |= {"seed": arm.seed if seed is None else seed, "training.threads": settings["threads"]}
    return load_experiment(settings["config"], quiet | wanted | budget)


def train(experiment: Experiment, inputs: Mapping[str, Path], folder: Path) -> Speedometer:
    """The train stage as a Session calls it, but for the store: a run that is timed is never taken from there."""
    stage, run = STAGES["train"], Speedometer()
    sections = {name: getattr(experiment, name) for name in stage.sections}
    assert stage.resolve
    source = load(stage.resolve)(*sections.values())
    for name in ("output", "scratch"):
        (folder / name).mkdir()
    workspace = Workspace(inputs, folder / "output", folder / "scratch", run)
    load(stage.build)(workspace, seed=experiment.seed, source=source, **sections)
    return run


def measure(settings: Mapping[str, Any], seed: int, inputs: Mapping[str, Path], home: Path) -> dict[str, Any]:
    """Train and score one arm with one seed."""
    experiment = load_arm(settings, seed)
    torch.set_num_threads(settings["threads"])
    with TemporaryDirectory(dir=home) as name:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = name  # every run pays for its own compilation
        started = time.monotonic()
        run = train(experiment, inputs, Path(name))
        minutes = (time.monotonic() - started) / 60
        model, _ = load_model(Path(name) / "output")
    stories = choose_stories(inputs["corpus"], settings["stories"], settings["story_bytes"])
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    masks, device = settings["masks"], pick_device("auto")
    scores = score(model.to(device).at, stories, tokenizer, experiment.shards, masks_per_row=masks, device=device)
    step_tokens = experiment.training.batch_size * experiment.shards.seq_len
    return {
        **scores,
        "tokens": run.marks[-1][1] * step_tokens,
        "tokens_per_s": run.steps_per_s() * step_tokens,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "minutes": minutes,
        **provenance(),
    }


def build_arms(arms: Mapping[str, dict[str, Any]], home: Path) -> dict[str, dict[str, Path]]:
    """Everything that training reads, by arm. Raises: UserError when the arms would be scored on different text."""
    inputs = {arm: build_inputs(load_arm(settings), home, until="shards") for arm, settings in arms.items()}
    wanted = {arm: (settings["stories"], settings["story_bytes"]) for arm, settings in arms.items()}
    digests = {arm: digest_of_stories(choose_stories(inputs[arm]["corpus"], *wanted[arm])) for arm in arms}
    if len(set(digests.values())) > 1:
        raise UserError(f"the arms' validation stories differ ({digests}); give all of them the same [corpus]")
    return inputs


def sweep(arms: Mapping[str, dict[str, Any]], seeds: list[int], out: Path, home: Path) -> Iterator[dict[str, Any]]:
    """Run what `out` does not hold yet. Raises: UserError when it holds another arm of the same name."""
    done = {(line["arm"], line["seed"]): line for line in read(out) if "error" not in line}
    for line in done.values():
        if line["arm"] in arms and line["settings"] != arms[line["arm"]]:
            raise UserError(f"{out}: arm {line['arm']!r} ran with {line['settings']}; take another name or file")
    inputs = build_arms(arms, home)
    for seed in seeds:
        for arm in (arm for arm in arms if (arm, seed) not in done):
            try:
                result = in_fresh_process(measure, arms[arm], seed, inputs[arm], home)
            except Exception as error:  # noqa: BLE001  that a recipe diverges is a result, and no reason to lose the rest
                result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
            yield {"arm": arm, "seed": seed, **result, "settings": arms[arm]}


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def table(lines: list[dict[str, Any]]) -> str:
    """Best first. Raises: UserError when the lines are about different text."""
    good = [line for line in lines if "error" not in line]
    if len({line["stories_digest"] for line in good}) > 1:
        raise UserError("the lines were scored on different stories, so they can't be compared; keep a file for each")
    arms = {line["arm"]: [other for other in good if other["arm"] == line["arm"]] for line in good}
    rows = [table_row(arm, runs) for arm, runs in sorted(arms.items(), key=lambda item: bits(item[1]))]
    rows += [(line["arm"], f"seed {line['seed']}", line["error"][:80], *"----") for line in lines if "error" in line]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows))


def table_row(arm: str, runs: list[dict[str, Any]]) -> tuple[str, ...]:
    spread = f" ± {stdev(run['bits_per_byte'] for run in runs):.4f}" if len(runs) > 1 else ""
    counts = [f"{mean(run[name] for run in runs):,.0f}" for name in ("tokens", "tokens_per_s", "parameters")]
    return (arm, str(len(runs)), f"{bits(runs):.4f}{spread}", *counts, f"{mean(run['minutes'] for run in runs):.2f}")


def bits(runs: list[dict[str, Any]]) -> float:
    return mean(float(run["bits_per_byte"]) for run in runs)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--arm", nargs="+", action="append", default=[], metavar=("NAME", "KEY=VALUE"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--minutes", type=float, help="of training, for every run")
    parser.add_argument("--tokens", type=int, help="of training, for every run")
    parser.add_argument("--out", type=Path, default=Path("recipe.jsonl"))
    parser.add_argument("--table", action="store_true", help="print --out as a table; run nothing")
    args = parser.parse_args()
    if args.table:
        print(table(read(args.out)))
        return
    if (args.minutes is None) == (args.tokens is None) or not args.arm:
        parser.error("give at least one --arm, and either --minutes or --tokens")
    arms = {name: settings_of(args, overrides) for name, *overrides in args.arm}
    with state_folder(args.home) as home:
        for line in sweep(arms, args.seeds, args.out, home):
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
