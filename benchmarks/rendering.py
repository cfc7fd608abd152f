"""How long does a picture of a film take, and how large is a film, by theme and format?

Method. One denoising of MODEL, 64 steps, a full canvas of text after a prompt, at 1200×700. Every theme is drawn and
written in every format that this machine can write, `--repeats` times, theme after theme, so that what else the machine
does meets all alike. Milliseconds are the process's own (CPU; ffmpeg is another process), a picture: to draw it, and to
encode it. Sizes are of the files.
Read back: the sum of the delays is what it should be, and the file loops.

    python benchmarks/rendering.py outputs/quick/model --repeats 3
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from ddlm.config import UserError
from ddlm.diffusion import SamplingConfig
from ddlm.generation import DiffusionPipeline, Frame
from ddlm.rendering import THEME_NAMES, RenderingConfig
from ddlm.rendering.files import WRITERS
from ddlm.rendering.film import Film
from ddlm.rendering.names import require_suffix

PROMPT = "Once upon a time"


def formats() -> list[str]:
    found = []
    for suffix in WRITERS:
        try:
            require_suffix(Path(f"film{suffix}"))
            found.append(suffix)
        except UserError as error:
            print(error)
    return found


class Drawn(Film):
    """A film whose pictures are drawn beforehand, so that writing it costs nothing but its encoding."""

    def __init__(self, frames: list[Frame], rendering: RenderingConfig) -> None:
        super().__init__(frames, rendering)
        started = time.process_time()
        self.pictures = [Film.__getitem__(self, index) for index in range(len(self))]
        self.draw_ms = 1000 * (time.process_time() - started) / len(self)

    def __getitem__(self, index: int) -> Image.Image:  # type: ignore[override]
        return self.pictures[index]


def measure(frames: list[Frame], theme: str, folder: Path, suffixes: list[str]) -> dict[str, Any]:
    film = Drawn(frames, RenderingConfig(theme=theme, width=1200, height=700))
    found: dict[str, Any] = {"pictures": len(film), "draw_ms": film.draw_ms}
    for suffix in suffixes:
        path, started = folder / f"{theme}{suffix}", time.process_time()
        WRITERS[suffix](film, path)
        found[f"{suffix} encode_ms"] = 1000 * (time.process_time() - started) / len(film)
        found[f"{suffix} bytes"] = path.stat().st_size
        if suffix in (".gif", ".apng", ".webp"):
            check(path, film.durations_ms)
    return found


def check(path: Path, durations_ms: list[int]) -> None:
    with Image.open(path) as image:
        read = []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            read.append(round(image.info["duration"]))
        assert sum(read) == sum(durations_ms), (path, read)
        assert image.info["loop"] == 0, path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--length", type=int, help="tokens to write; a full canvas, if absent")
    args = parser.parse_args()
    pipeline = DiffusionPipeline.from_pretrained(args.model)
    room = pipeline.seq_len - len(pipeline.tokenizer.encode(PROMPT)) - 1
    frames = pipeline.frames(PROMPT, sampling=SamplingConfig(num_sampling_steps=64), seed=1, length=args.length or room)
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.repeats):
            for theme in THEME_NAMES:
                found[theme].append(measure(frames, theme, Path(folder), formats()))
    for theme, runs in found.items():
        print(json.dumps({"theme": theme, **{key: round(median(run[key] for run in runs), 1) for key in runs[0]}}))


if __name__ == "__main__":
    main()
