"""`python probe.py BUNDLE < plan.json > figures.json`: one graph of a bundle, run by the bundle's own program.

Started in a fresh process without ddlm and torch, so that memory and start-up are what they are on a device. It keeps
to Python 3.10.
The plan: kind, precision, threads, texts, seed, arms (settings of `[sampling]`), prompt.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any


def main() -> None:
    plan, folder = json.load(sys.stdin), Path(sys.argv[1])
    sys.path.insert(0, str(folder))
    from options import InputError  # type: ignore[import-not-found]

    try:
        json.dump(run(plan, folder), sys.stdout)
    except InputError as error:
        raise SystemExit(str(error)) from None


def run(plan: dict[str, Any], folder: Path) -> dict[str, Any]:
    """first_frame_at: by the wall clock, after the first step of a text that does not count."""
    import onnxruntime
    from backends import backend_of  # type: ignore[import-not-found]
    from contents import load_bundle  # type: ignore[import-not-found]

    onnxruntime.set_default_logger_severity(1)  # from here on it tells on stderr how its arena grows
    bundle = load_bundle(folder, plan["threads"])
    backend = watched(backend_of(bundle, "ort", plan["kind"], plan["precision"]))
    write(bundle, backend, plan, min(plan["arms"], key=lambda arm: arm["num_sampling_steps"]), 0)
    arms = [measure(bundle, backend, plan, arm) for arm in plan["arms"]]
    return {"first_frame_at": backend.moments[0], "peak_resident_bytes": peak_resident_bytes(), "arms": arms}


def watched(backend: Any) -> Any:
    """The backend, with the milliseconds of every step, and the wall clock after the first."""

    class Watched(type(backend)):  # type: ignore[misc]
        step_ms: list[float] = []
        moments: list[float] = []

        def denoise(self, canvas: Any, draw: Any) -> Iterator[Any]:
            steps = super().denoise(canvas, draw)
            while True:
                before = time.perf_counter()
                state = next(steps, None)
                if state is None:
                    return
                self.step_ms.append(1000 * (time.perf_counter() - before))
                if not self.moments:
                    self.moments.append(time.time())
                yield state

    return Watched(**{field.name: getattr(backend, field.name) for field in fields(backend)})


def write(bundle: Any, backend: Any, plan: dict[str, Any], arm: dict[str, Any], number: int) -> dict[str, Any]:
    import writing  # type: ignore[import-not-found]

    sampling = writing.sampling_from(arm, bundle)
    order = writing.Order(plan["prompt"], samples=1, seed=plan["seed"] + number)
    made: dict[str, Any] = writing.generate(bundle, backend, order, sampling)
    return made


def measure(bundle: Any, backend: Any, plan: dict[str, Any], arm: dict[str, Any]) -> dict[str, Any]:
    """Texts one after the other, as a user would ask for them."""
    backend.step_ms.clear()
    made = [write(bundle, backend, plan, arm, number) for number in range(plan["texts"])]
    return {
        **arm,
        "step_ms": list(backend.step_ms),
        "seconds": [text["seconds"] for text in made],
        "tokens": [round(text["tokens_per_s"] * text["seconds"]) for text in made],
        "steps": [text["num_sampling_steps"] for text in made],
        "texts": [text["samples"][0]["text"] for text in made],
    }


def peak_resident_bytes() -> int:
    """The kernel's high-water mark of this process; elsewhere than on Linux what getrusage says."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return 1024 * int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
