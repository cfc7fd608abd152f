"""What do Prefect and MLflow cost?

Question 1. How long does the full pipeline take when every stage is cached? Method. One run builds all stages; the flow
is then called again and again in the same process, against a server that is up. Wanted: 3 s at most.

Question 2. How much longer does a training take with both than without? Method. The same training, another seed each
time, in turns: plainly and untracked, then as a flow that MLflow follows. `stage_s` is the train stage alone,
`around_s` what the flow takes before and after its stages were built. A training of ten minutes pays the stage's share
of its length and `around_s` once. Wanted: 1 % at most. `processor_s_more` is the difference in the processor's time,
which other processes on the machine disturb less; it leaves out what is waited for.

    make server; eval "$(make -s status | tail -1)"     # or without: the benchmark brings its own Prefect server
    python benchmarks/orchestration.py --out orchestration.json
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from scoring import provenance, state_folder

from ddlm.experiment import load_experiment
from ddlm.experiment.stages import Session, run_plainly
from flows.server import embedded

TINY = "configs/tiny.toml"
TEN_MINUTES_S = 600
Arm = Callable[[int], Path]
"""Trains with a seed. Returns the artifact."""


def cached(rounds: int) -> list[float]:
    from flows.full_pipeline import full_pipeline  # after embedded(): it imports Prefect

    full_pipeline(TINY)
    return [timed(lambda: full_pipeline(TINY))[0] for _ in range(rounds)]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the wall and by the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def settings(steps: int, seed: int, backend: str) -> dict[str, Any]:
    return {
        "training.steps": steps, "training.log_every_steps": 20, "training.validate_every_steps": steps,
        "training.save_every_steps": steps, "tracking.backend": backend, "seed": seed,
    }  # fmt: skip


def plainly(steps: int, seed: int) -> None:
    run_plainly(Session(load_experiment(TINY, settings(steps, seed, "none"))), until="train")


def as_flow(steps: int, seed: int) -> None:
    from flows.full_pipeline import full_pipeline

    full_pipeline(TINY, settings(steps, seed, "mlflow"), until="train")


def stages_s(home: Path, known: set[Path]) -> dict[str, float]:
    """How long each stage took whose record was not known before."""
    new = set(home.glob("artifacts/[!.]*/*/run.json")) - known
    return {path.parts[-3]: json.loads(path.read_text())["seconds"] for path in new}


def cost(home: Path, steps: int, rounds: int) -> dict[str, Any]:
    arms = {"plain": plainly, "flow": as_flow}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for each in range(rounds):
        for arm, (name, train) in enumerate(arms.items()):
            seed, known = 1000 + 2 * each + arm, set(home.glob("artifacts/[!.]*/*/run.json"))
            wall, processor = timed(lambda train=train, seed=seed: train(steps, seed))
            stages = stages_s(home, known)
            around = wall - sum(stages.values())
            measured[name].append({"stage_s": stages["train"], "around_s": around, "processor_s": processor})
    middle = {name: {key: median(row[key] for row in rows) for key in rows[0]} for name, rows in measured.items()}
    plain, flow = middle["plain"], middle["flow"]
    around = flow["around_s"] - plain["around_s"]
    share = flow["stage_s"] / plain["stage_s"] - 1
    return {
        "steps": steps,
        "rounds": rounds,
        "median": middle,
        "percent_of_the_stage": 100 * share,
        "percent_of_ten_minutes": 100 * (share + around / TEN_MINUTES_S),
        "processor_s_more": flow["processor_s"] - plain["processor_s"],
        "all": measured,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of each training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--home", type=Path, help="keeps the artifacts; a temporary folder if absent")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    with state_folder(options.home) as home, embedded():
        seconds = cached(options.rounds)
        found = {
            **provenance(),
            "own_server": not os.environ.get("PREFECT_API_URL"),
            "load": os.getloadavg(),
            "cached_s": {"median": median(seconds), "all": seconds},
            "training": cost(home, options.steps, options.rounds),
        }
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
