"""What do Prefect and MLflow cost?

Question 1. How long does the full pipeline take when every stage is cached? Method. One run builds all stages; the flow
is then called again and again in the same process, against a server that is up. Wanted: 3 s at most.

Question 2. How much longer does a training take with both than without? Method. Trainings of two lengths, another seed
each time, in turns: plainly and untracked, then as a flow that MLflow follows. The two lengths separate what a report
(every 20 steps: a line of log, some thirty metrics) costs from what a run costs once. Both are the processor's time,
since the wall's moves with whatever else runs here by more than what is looked for; the fastest of each count. A
training of ten minutes pays once, and for its reports: `configs/quick.toml` makes 50. Wanted: 1 % at most.

    make server; eval "$(make -s status | tail -1)"     # or without: the benchmark brings its own Prefect server
    python benchmarks/orchestration.py --out orchestration.json
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from scoring import provenance, state_folder

from ddlm.experiment import load_experiment
from ddlm.experiment.stages import Session, run_plainly
from flows.server import embedded

TINY = "configs/tiny.toml"
TEN_MINUTES_S = 600
REPORT_EVERY_STEPS = 20
REPORTS = 50


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
        "training.steps": steps, "training.log_every_steps": REPORT_EVERY_STEPS, "training.validate_every_steps": steps,
        "training.save_every_steps": steps, "tracking.backend": backend, "seed": seed,
    }  # fmt: skip


def plainly(steps: int, seed: int) -> None:
    run_plainly(Session(load_experiment(TINY, settings(steps, seed, "none"))), until="train")


def as_flow(steps: int, seed: int) -> None:
    from flows.full_pipeline import full_pipeline

    full_pipeline(TINY, settings(steps, seed, "mlflow"), until="train")


ARMS = {"plain": plainly, "flow": as_flow}


def stages_s(home: Path, known: set[Path]) -> dict[str, float]:
    """How long each stage took whose record was not known before."""
    new = set(home.glob("artifacts/[!.]*/*/run.json")) - known
    return {path.parts[-3]: json.loads(path.read_text())["seconds"] for path in new}


def cost(home: Path, steps: int, rounds: int) -> dict[str, Any]:
    lengths = (steps // 4, steps)
    rows: list[dict[str, Any]] = []
    for each in range(rounds):
        for length in lengths:
            for name, train in ARMS.items():
                known = set(home.glob("artifacts/[!.]*/*/run.json"))
                wall, processor = timed(partial(train, length, 1000 + len(rows)))
                stages = stages_s(home, known)
                around = wall - sum(stages.values())
                row = {"arm": name, "steps": length, "round": each, "stage_s": stages["train"], "around_s": around}
                rows.append({**row, "processor_s": processor})

    short, long = lengths
    spent = {(arm, length): least(rows, arm, length) for arm in ARMS for length in lengths}
    more = {length: spent["flow", length] - spent["plain", length] for length in lengths}
    report_s = (more[long] - more[short]) / (long - short) * REPORT_EVERY_STEPS
    once_s = more[short] - report_s * short / REPORT_EVERY_STEPS
    return {
        "ms_per_report": 1000 * report_s,
        "once_s": once_s,
        "percent_of_ten_minutes": 100 * (once_s + REPORTS * report_s) / TEN_MINUTES_S,
        "rows": rows,
    }


def least(rows: list[dict[str, Any]], arm: str, steps: int) -> float:
    return min(float(row["processor_s"]) for row in rows if (row["arm"], row["steps"]) == (arm, steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=1000, help="of the longer trainings; the shorter ones take a quarter"
    )
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
