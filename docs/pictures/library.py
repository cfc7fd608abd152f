"""Pictures of what ddlm itself shows: `python docs/pictures/library.py MODEL OUT`.

A film and its moments, the terminal while a text is written and while a pipeline runs, the page of `ddlm ui`, and the
page that runs the model in the browser, all from one model. Two minutes on two cores.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from browser import Page, chromium
from servers import free_port

from ddlm.artifacts import ArtifactStore
from ddlm.cli.recording import record_watch, recording
from ddlm.diffusion import SamplingConfig
from ddlm.experiment import load_experiment
from ddlm.experiment.stages import Session, run_plainly
from ddlm.generation import DiffusionPipeline
from ddlm.rendering import RenderingConfig
from ddlm.rendering.files import render_file

ROOT = Path(__file__).resolve().parents[2]
PROMPT, SEED = "Once upon a time", 3
WIDE, NARROW, HEIGHT = 1280, 390, 860


def films(pipeline: DiffusionPipeline, out: Path) -> None:
    """The film at the top of the README, and moments of it in another theme."""
    frames = pipeline.frames(PROMPT, sampling=SamplingConfig(), seed=SEED)
    render_file(frames, out.parent / "denoising.gif", RenderingConfig(width=900, height=480))
    for theme in ("neon", "heat"):
        render_file(frames, out / f"{theme}.png", RenderingConfig(theme=theme, moments=4), sheet=True)


def terminal(pipeline: DiffusionPipeline, out: Path) -> None:
    record_watch(pipeline.stream(PROMPT, sampling=SamplingConfig(), seed=SEED), out / "watch.svg")
    experiment = load_experiment(ROOT / "configs" / "tiny.toml", {"tracking.backend": "none"})
    with tempfile.TemporaryDirectory() as home, recording(out / "run.svg", "ddlm run configs/tiny.toml"):
        run_plainly(Session(experiment, ArtifactStore(Path(home))))


@contextmanager
def serving(*command: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def page_of_ui(model: str, page: Page, out: Path) -> None:
    port = str(free_port())
    with serving("-m", "ddlm", "ui", model, "--port", port):
        page.open_when_there(f"http://127.0.0.1:{port}", WIDE, HEIGHT)
        page.wait_for("Write")
        page.click("Write")
        page.wait_for("100 %")
        page.picture(out / "page.png")


def page_in_browser(model: str, page: Page, out: Path) -> None:
    port = str(free_port())
    with tempfile.TemporaryDirectory() as folder:
        export = ("export", model, "--web", "-o", f"{folder}/site")
        subprocess.run([sys.executable, "-m", "ddlm", *export], cwd=ROOT, check=True)
        with serving("-m", "http.server", port, "--directory", f"{folder}/site"):
            page.open_when_there(f"http://127.0.0.1:{port}", NARROW, HEIGHT)
            page.wait_for("Write")
            page.click("Write")
            page.wait_for("100 %")
            page.picture(out / "browser.png")


def main() -> None:
    model, out = sys.argv[1], Path(sys.argv[2]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    pipeline = DiffusionPipeline.from_pretrained(model, precision="float32")
    films(pipeline, out)
    terminal(pipeline, out)
    with chromium() as page:
        page_of_ui(model, page, out)
        page_in_browser(model, page, out)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("wanted a model and a folder for the pictures: python docs/pictures/library.py MODEL OUT")
    main()
