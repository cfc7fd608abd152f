"""Does the page hold when many use it at once?

Question. N visitors write without a pause: does any fail, does any see another's text, does the server's memory grow?
Method. `ddlm ui MODEL` as a process; each visitor speaks Gradio's own protocol, asks for texts with a beginning and a
seed of their own, takes in every message, and looks at the finished text. It must be what the pipeline writes alone for
that beginning and seed. The server's memory is read every second. Wanted: no failure, no wrong text, and no more growth
in the second half than the noise of a few megabytes.

    python benchmarks/page.py MODEL --visitors 20 --seconds 60 --out page.json
"""

import argparse
import asyncio
import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from scoring import provenance

from ddlm.diffusion import SamplingConfig
from ddlm.generation import DiffusionPipeline

STEPS = 16
EVERY_S = 10
"""Between the readings of memory that are reported, the last one among them."""
TAGS = re.compile("<[^>]*>")


@dataclass
class Tally:
    """What visitors saw. seconds: from asking for a text to its last state. memory_mb: of the server, every second."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)


class Visitor:
    """A browser as the server knows it: a session, and events with the values of their inputs."""

    def __init__(self, client: httpx.AsyncClient, config: dict[str, Any], number: int) -> None:
        self.client, self.number, self.session = client, number, f"visitor{number}"
        self.config = config
        self.values = {each["id"]: each["props"].get("value") for each in config["components"]}
        self.ids = {each["props"].get("elem_id"): each["id"] for each in config["components"]}
        self.events = {each["api_name"]: each for each in config["dependencies"]}

    async def write(self, text: str, seed: int) -> str:
        """The finished text as the page shows it."""
        given = {"text": text, "seed": seed, "control-num_sampling_steps": STEPS}
        self.values |= {self.ids[name]: value for name, value in given.items()}
        await self.at_once("begin", [False, seed])
        await self.in_queue("make", [self.values[each] for each in self.events["make"]["inputs"]])
        moment, *_ = (await self.at_once("end", []))["data"]
        shown = (await self.at_once("show", [moment["value"]]))["data"][0]
        story = re.search('<div class="story">(.*?)</div>', shown, re.DOTALL)
        assert story, shown
        return html.unescape(TAGS.sub("", story[1]))

    async def at_once(self, event: str, data: list[Any]) -> dict[str, Any]:
        answer = await self.client.post("/gradio_api/run/predict", json=self.body(event, data))
        answer.raise_for_status()
        return dict(answer.json())

    async def in_queue(self, event: str, data: list[Any]) -> None:
        joined = await self.client.post("/gradio_api/queue/join", json=self.body(event, data))
        joined.raise_for_status()
        address = f"/gradio_api/queue/data?session_hash={self.session}"
        async with self.client.stream("GET", address) as stream:
            async for line in stream.aiter_lines():
                message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    assert message["success"], message
                    return
        raise AssertionError("the stream ended before the text")

    def body(self, event: str, data: list[Any]) -> dict[str, Any]:
        return {"data": data, "fn_index": self.events[event]["id"], "session_hash": self.session}


def beginning(number: int, turn: int) -> tuple[str, int]:
    return f"Visitor {number} met a cat {turn} times", 1000 * number + turn


async def visit(visitor: Visitor, seen: dict[tuple[str, int], str], tally: Tally, until: float) -> None:
    turn = 0
    while time.monotonic() < until:
        wanted, started = beginning(visitor.number, turn := turn + 1), time.monotonic()
        try:
            seen[wanted] = await visitor.write(*wanted)
        except (httpx.HTTPError, AssertionError) as error:
            tally.failures.append(f"{type(error).__name__}: {error}"[:200])
        tally.seconds.append(time.monotonic() - started)


async def watch(process: psutil.Process, tally: Tally, until: float) -> None:
    while time.monotonic() < until:
        tally.memory_mb.append(process.memory_info().rss / 1e6)
        await asyncio.sleep(1)


async def crowd(address: str, pid: int, visitors: int, seconds: float) -> tuple[dict[tuple[str, int], str], Tally]:
    seen: dict[tuple[str, int], str] = {}
    tally, until = Tally(), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=300, trust_env=False, limits=limits) as client:
        config = (await client.get("/config")).json()
        crowd = [visit(Visitor(client, config, number), seen, tally, until) for number in range(visitors)]
        await asyncio.gather(watch(psutil.Process(pid), tally, until), *crowd)
    return seen, tally


def start(model: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "ddlm", "ui", model, "--port", "0", "--precision", "float32"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, process.stdout.readline().strip()


def misread(model: str, seen: dict[tuple[str, int], str]) -> list[str]:
    """Texts that are not what the pipeline writes alone."""
    pipeline = DiffusionPipeline.from_pretrained(model, precision="float32")
    sampling = SamplingConfig(num_sampling_steps=STEPS)
    return [
        text
        for (prompt, seed), text in seen.items()
        if text != pipeline.generate(prompt, sampling=sampling, seed=seed).samples[0].text
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    process, address = start(chosen.model)
    try:
        seen, tally = asyncio.run(crowd(address, process.pid, chosen.visitors, chosen.seconds))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    tally.wrong = misread(chosen.model, seen)
    waits, memory = sorted(tally.seconds), tally.memory_mb
    found = {
        "visitors": chosen.visitors, "seconds": chosen.seconds, "steps": STEPS, "texts": len(seen),
        "failures": len(tally.failures), "first_failures": tally.failures[:3], "wrong": len(tally.wrong),
        "text_s": {"median": waits[len(waits) // 2], "longest": waits[-1]},
        "memory_mb": [round(memory[-1 - back]) for back in range(0, len(memory), EVERY_S)][::-1],
        "cores": os.cpu_count(), **provenance(),
    }  # fmt: skip
    document = json.dumps(found, indent=1)
    print(document)
    if chosen.out:
        chosen.out.write_text(document + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
