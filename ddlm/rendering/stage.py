"""The render stage: a model folder in; a film of one denoising, two stills of it and a contact sheet out."""

from ddlm.artifacts import Workspace
from ddlm.diffusion import SamplingConfig
from ddlm.generation import DiffusionPipeline
from ddlm.rendering import RenderingConfig
from ddlm.rendering.files import contact_sheet, write_film, write_png
from ddlm.rendering.film import Film


def build(workspace: Workspace, *, seed: int, sampling: SamplingConfig, rendering: RenderingConfig) -> None:
    """Write denoising.gif, middle.png, final.png and moments.png."""
    model, output = workspace.inputs["train"], workspace.output
    frames = DiffusionPipeline.from_pretrained(model).frames(rendering.prompt, sampling=sampling, seed=seed)
    film = Film(frames, rendering)
    write_film(film, output / "denoising.gif")
    write_png(film.middle, output / "middle.png")
    write_png(film[-1], output / "final.png")
    write_png(contact_sheet(film, rendering.moments), output / "moments.png")
