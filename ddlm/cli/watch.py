"""The terminal view of a denoising."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ddlm.diffusion.sampler import Observer, Step
from ddlm.generation import DiffusionPipeline, Frame

STYLES = {"prompt": "bold", "shown": "", "new": "bold cyan", "masked": "dim"}


@contextmanager
def watching(pipeline: DiffusionPipeline, prompt: str) -> Iterator[Observer]:
    """Shows the first sample on stderr while it is written."""
    fixed = len(pipeline.tokenizer.encode(prompt))
    with Live(console=Console(stderr=True), transient=True, refresh_per_second=20) as live:

        def observe(step: Step) -> None:
            live.update(styled(pipeline.frame(step, fixed)))

        yield observe


def styled(frame: Frame) -> Text:
    text = Text(f"step {frame.step} / {frame.num_sampling_steps}\n\n", style="dim")
    for span in frame.spans:
        text.append(span.text, style=STYLES[span.state])
    return text
