"""How fast this bundle writes on this machine, at what memory and power: what `bench.sh` runs.

Prints one JSON document. Texts are written one after another, after some that do not count.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __package__:  # inside the library, which ships this file
    from ddlm.export.runtime import options, writing
    from ddlm.export.runtime.backends import Backend, backend_of
    from ddlm.export.runtime.contents import Bundle, load_bundle
    from ddlm.export.runtime.integrity import read_manifest
    from ddlm.export.runtime.tokens import Sampling
else:
    try:
        import options  # type: ignore[import-not-found,no-redef]
        import writing  # type: ignore[import-not-found,no-redef]
        from backends import Backend, backend_of  # type: ignore[import-not-found,no-redef]
        from contents import Bundle, load_bundle  # type: ignore[import-not-found,no-redef]
        from integrity import read_manifest  # type: ignore[import-not-found,no-redef]
        from tokens import Sampling  # type: ignore[import-not-found,no-redef]
    except Exception as error:  # noqa: BLE001, a damaged file that still parses can raise anything
        print(f"bench.sh: {error}; copy the bundle again or install its requirements", file=sys.stderr)
        raise SystemExit(2) from None

WARM_UP = 2
EVERY_S = 0.02
"""Between two looks at power and memory."""
WHOLE_BOARD = "VDD_IN"
"""The rail that everything on a Jetson module hangs on."""
SHARES = (0.5, 0.9, 0.99)


class Gauges:
    """Looks at power and memory beside the work, from `with` to its end.

    Source: the kernel's ina3221 driver: in*_label, in*_input in mV, curr*_input in mA; proc(5).
    """

    def __init__(self, root: Path) -> None:
        self.root, self.rails = root, rails_of(root)
        self.joules = self.seconds = 0.0
        self.least_available_kib: int | None = None
        self._is_over = threading.Event()

    def __enter__(self) -> Gauges:
        self._seen, self._power = time.perf_counter(), self._watts()
        self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._is_over.wait(EVERY_S):
            self._look()

    def _watts(self) -> float:
        microwatts = (int(volts.read_text()) * int(amperes.read_text()) for volts, amperes in self.rails)
        return sum(microwatts) / 1e6

    def _look(self) -> None:
        now, watts = time.perf_counter(), self._watts()
        self.joules += (now - self._seen) * (self._power + watts) / 2
        self.seconds += now - self._seen
        self._seen, self._power = now, watts
        available = field_of(self.root / "proc/meminfo", "MemAvailable")
        if available is not None:
            self.least_available_kib = min(available, self.least_available_kib or available)


def rails_of(root: Path) -> list[tuple[Path, Path]]:
    """Voltage and current of the rail of the whole board; none where it can't be read."""
    for label in sorted(root.glob("sys/class/hwmon/hwmon*/in*_label")):
        number = label.name[2:].partition("_")[0]
        pair = label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input")
        if content_of(label) == WHOLE_BOARD and all(content_of(path) for path in pair):
            return [pair]
    return []


def content_of(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def field_of(path: Path, name: str) -> int | None:
    """A number of KiB from a file of /proc."""
    for line in content_of(path).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return None


def measure(bundle: Bundle, backend: Backend, order: writing.Order, sampling: Sampling, root: Path) -> dict[str, Any]:
    """order.samples texts, one at a time."""
    for _ in range(WARM_UP):
        writing.generate(bundle, backend, replace(order, samples=1), sampling)
    made = []
    with Gauges(root) as gauges:
        started = time.perf_counter()
        for number in range(order.samples):
            made.append(
                writing.generate(bundle, backend, replace(order, samples=1, seed=order.seed + number), sampling)
            )
        seconds = time.perf_counter() - started
    tokens = sum(text["tokens_per_s"] * text["seconds"] for text in made)
    runs, ms = sum(text["calls"] for text in made), [1000 * text["seconds"] for text in made]
    watts = gauges.joules / gauges.seconds if gauges.rails else None
    return {
        "texts": len(made),
        "graph": backend.graph,
        "precision": backend.precision,
        "is_captured": backend.is_captured,
        "unmasking": sampling.unmasking,
        "num_sampling_steps": max(text["num_sampling_steps"] for text in made),
        "calls": runs,
        "text_ms": {f"p{round(100 * share)}": quantile(ms, share) for share in SHARES},
        "ms_per_call": sum(ms) / runs,
        "tokens": round(tokens),
        "tokens_per_s": tokens / seconds,
        "peak_memory_kib": field_of(Path("/proc/self/status"), "VmHWM"),
        "least_available_kib": gauges.least_available_kib,
        "watts": watts,
        "joules": watts and watts * seconds,
        "joules_per_token": watts and tokens and watts * seconds / tokens,
    }


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def facts_from(text: str) -> dict[str, str | None]:
    """The lines NAME=value of `facts.sh`."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name: value or None for name, _, value in pairs}


def main(arguments: Sequence[str] | None = None) -> int:
    """Facts come in by the environment: DDLM_FACTS, and DDLM_STARTED for the time."""
    try:
        parser = options.command_line()
        parser.prog = "bench.sh"
        parser.set_defaults(samples=20)
        asked = parser.parse_args(arguments)
        bundle = load_bundle(Path(__file__).resolve().parent, asked.threads)
        sampling = writing.sampling_from(vars(asked), bundle)
        backend = backend_of(bundle, asked.backend, asked.graph, asked.precision)
        order = writing.Order(asked.prompt, asked.samples, asked.seed, asked.length, asked.infill)
        made = measure(bundle, backend, order, sampling, Path(os.environ.get("SYSROOT") or "/"))
    except options.InputError as error:
        print(f"bench.sh: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(
            f"bench.sh: {error.name} is not installed; run pip install numpy onnxruntime tokenizers, "
            "on a Jetson pip install -r requirements-jp62.txt",
            file=sys.stderr,
        )
        return 2
    machine = facts_from(os.environ.get("DDLM_FACTS", ""))
    versions = {"python": sys.version.split()[0], "bundle": read_manifest(bundle.folder)["checksum"]}
    print(
        json.dumps(
            {"started": os.environ.get("DDLM_STARTED"), "machine": machine, "versions": versions, **made}, indent=1
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
