"""A bundle on the machine at hand: what each graph of it costs in time and memory, and what its texts are worth.

Every graph runs in a fresh process, by the bundle's own program. Quality is measured here, by the evaluation library.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddlm.bench import probe
from ddlm.config import UserError
from ddlm.data.corpus import read_source
from ddlm.data.packing import Rows
from ddlm.data.progress import shown
from ddlm.evaluation.few_steps import bound_in_steps
from ddlm.evaluation.judge import Judge
from ddlm.evaluation.subject import rows_from_texts
from ddlm.evaluation.sweep import Sweep
from ddlm.evaluation.text import distinct, unigram_entropy_nats
from ddlm.export.quality import Network, denoiser_of
from ddlm.export.runtime.integrity import read_manifest
from ddlm.export.runtime.options import InputError
from ddlm.export.runtime.unmasking import POLICIES
from ddlm.tokenizer import Tokenizer

JETSON = {"memory_bytes": 8_000_000_000, "usable_bytes": 5_200_000_000}
"""An Orin Nano 8 GB, and what JetPack leaves a program of it."""
ARENA = re.compile(r"Total allocated bytes: (\d+)")
MASKS = 8
"""A row, for the bound."""


@dataclass(frozen=True)
class Plan:
    """What is swept. precisions, kinds: of the graphs; all when empty. texts: for each graph, policy and number of
    steps. data: real stories, for bits per byte, of which `rows` rows are taken, from the column `text_field`."""

    steps: Sequence[int] = (8, 16, 32, 64)
    unmasking: Sequence[str] = ("confidence",)
    precisions: Sequence[str] = ()
    kinds: Sequence[str] = ()
    texts: int = 4
    threads: int | None = None
    seed: int = 0
    data: Path | None = None
    text_field: str = "text"
    rows: int = 16
    judge: str | None = None


def measure(folder: Path, plan: Plan) -> dict[str, Any]:
    """Raises: UserError for a folder that is no bundle, settings that it does not know, and graphs that it lacks."""
    manifest = manifest_of(folder)
    graphs = chosen(manifest, plan)
    judge = Judge.load(plan.judge) if plan.judge else None
    rows = rows_of(folder, manifest["seq_len"], plan) if plan.data else None
    variants, lines = [], []
    for name in shown(list(graphs), "measuring, graphs", len(graphs)):
        entry = {"graph": name, **graphs[name], "bytes": manifest["files"][name]["bytes"]}
        found = run_probe(folder, entry, plan)
        bounds = bounds_of(folder / name, manifest, rows, plan) if rows else {}
        variants.append(costs(entry, found))
        lines += [row_of(entry, arm, bounds, judge) for arm in found["arms"]]
    return {
        "bundle": manifest["checksum"],
        "seq_len": manifest["seq_len"],
        "hardware": hardware(plan.threads),
        "jetson": JETSON,
        "variants": variants,
        "rows": lines,
    }


def manifest_of(folder: Path) -> dict[str, Any]:
    try:
        return read_manifest(folder)
    except InputError as error:
        raise UserError(f"bench device: {error}") from None


def chosen(manifest: Mapping[str, Any], plan: Plan) -> dict[str, dict[str, Any]]:
    """The graphs of the whole canvas that the plan asks for."""
    if unknown := set(plan.unmasking) - set(POLICIES):
        raise UserError(f"unknown unmasking {min(unknown)!r}; wanted one of {', '.join(POLICIES)}")
    whole = {name: of for name, of in manifest["graphs"].items() if of["length"] == manifest["seq_len"]}
    found = {
        name: of
        for name, of in whole.items()
        if (not plan.precisions or of["precision"] in plan.precisions) and (not plan.kinds or of["kind"] in plan.kinds)
    }
    if not found:
        offered = ", ".join(f"{of['kind']} in {of['precision']}" for of in whole.values())
        raise UserError(f"bench device: the bundle has no such graph; it has {offered}")
    return found


# In a fresh process


def run_probe(folder: Path, entry: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Raises: UserError with what the bundle's program says."""
    arms = [{"unmasking": name, "num_sampling_steps": steps} for name in plan.unmasking for steps in plan.steps]
    wanted = {"kind": entry["kind"], "precision": entry["precision"], "threads": plan.threads, "texts": plan.texts}
    document = json.dumps({**wanted, "seed": plan.seed, "prompt": "", "arms": arms})
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-I", probe.__file__, str(folder.resolve())],
        input=document, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"bench device: {entry['graph']}: {reason}")
    found: dict[str, Any] = json.loads(done.stdout)
    grown = ARENA.findall(done.stderr)
    return {
        **found,
        "start_s": found["first_frame_at"] - started,
        "arena_bytes": int(grown[-1]) if grown else None,
    }


def costs(entry: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """start_s: from the start of the process to the first frame. arena_bytes: what onnxruntime took for tensors, packed
    weights among them, by its own account. usable_share: of what an Orin Nano leaves, if it took as much there."""
    peak = found["peak_resident_bytes"]
    return {
        **entry, "start_s": found["start_s"], "peak_resident_bytes": peak, "arena_bytes": found["arena_bytes"],
        "usable_share": peak / JETSON["usable_bytes"],
    }  # fmt: skip


def row_of(
    entry: Mapping[str, Any], arm: Mapping[str, Any], bounds: Mapping[int, float], judge: Judge | None
) -> dict[str, Any]:
    """bits_per_byte: the bound for writing in so many steps in a random order, whatever the policy of the texts."""
    texts, steps = arm["texts"], arm["num_sampling_steps"]
    judged = {"judge_perplexity": judge.score(texts).perplexity} if judge else {}
    bound = {"bits_per_byte": bounds[steps]} if bounds else {}
    return {
        "graph": entry["graph"],
        "precision": entry["precision"],
        "unmasking": arm["unmasking"],
        "num_sampling_steps": steps,
        "ms_per_step": float(np.median(arm["step_ms"])),
        "ms_per_step_p90": float(np.quantile(arm["step_ms"], 0.9)),
        "seconds_per_text": float(np.median(arm["seconds"])),
        "tokens_per_s": sum(arm["tokens"]) / sum(arm["seconds"]),
        **bound,
        **judged,
        "entropy_nats": unigram_entropy_nats(texts),
        "distinct_2": distinct(texts, 2),
    }


# Bits per byte


def rows_of(folder: Path, seq_len: int, plan: Plan) -> tuple[Rows, np.ndarray]:
    assert plan.data
    stories = read_source(plan.data, plan.rows, text_field=plan.text_field)
    rows, story = rows_from_texts(Tokenizer.load(folder), stories, seq_len)
    return rows[: plan.rows], story[: plan.rows]


def bounds_of(
    path: Path, manifest: Mapping[str, Any], rows: tuple[Rows, np.ndarray], plan: Plan
) -> dict[int, float]:  # fmt: skip
    """By the number of steps. Of a twin, which writes one token at a time, there is none."""
    if manifest["is_autoregressive"]:
        return {}
    denoiser = denoiser_of(logits_of(path, plan.threads))
    return {
        steps: bound_in_steps(
            denoiser, rows[0], num_sampling_steps=steps, mask_id=manifest["mask_id"], masks_per_row=MASKS,
            seed=plan.seed, story=rows[1], sweep=Sweep(batch_size=1),
        ).bits_per_byte
        for steps in plan.steps
    }  # fmt: skip


def logits_of(path: Path, threads: int | None) -> Network:
    """The network inside a graph of either kind."""
    import onnx

    from ddlm.export.variants import network_of  # late: needs the extra

    inner = onnx.utils.Extractor(onnx.load(path)).extract_model(["ids"], ["logits"])
    return network_of(inner.SerializeToString(), threads)


# Where


def hardware(threads: int | None) -> dict[str, Any]:
    board = _first_line(Path("/proc/device-tree/model"))
    models = re.findall(r"^model name\s*:\s*(.+)$", _content(Path("/proc/cpuinfo")), re.MULTILINE)
    return {
        "machine": board or (models[0] if models else platform.processor() or platform.machine()),
        "architecture": platform.machine(),
        "is_jetson": "Jetson" in board,
        "cores": os.cpu_count(),
        "threads": threads or os.cpu_count(),
        "load_1min": os.getloadavg()[0],
        "backend": "onnxruntime on the processor",
    }


def _first_line(path: Path) -> str:
    return _content(path).strip("\0\n")


def _content(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
