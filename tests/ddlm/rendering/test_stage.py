import pytest
from PIL import Image

from ddlm.artifacts import Workspace, sha256_file
from ddlm.config import UserError
from ddlm.diffusion import SamplingConfig
from ddlm.rendering import RenderingConfig
from ddlm.rendering.stage import build, render_file

RENDERING = RenderingConfig(prompt="Once upon", width=480, height=320, frame_ms=60)
FILES = ["curve.png", "denoising.gif", "final.png", "middle.png"]


def built(folder, model, recorder):
    folder.mkdir()
    sampling = SamplingConfig(num_sampling_steps=6)
    build(Workspace({"train": model}, folder, folder, recorder), seed=3, sampling=sampling, rendering=RENDERING)
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def test_the_stage_writes_a_film_two_stills_and_the_curve(tmp_path, tiny_model, recorder):
    assert list(built(tmp_path / "out", tiny_model, recorder)) == FILES
    with Image.open(tmp_path / "out" / "denoising.gif") as gif:
        assert gif.size == (480, 320)
        assert gif.n_frames >= 7
        assert gif.info["duration"] == 60
    stills = [Image.open(tmp_path / "out" / name).tobytes() for name in ("middle.png", "final.png")]
    assert stills[0] != stills[1]


def test_the_same_model_and_seed_give_the_same_files(tmp_path, tiny_model, recorder):
    assert built(tmp_path / "one", tiny_model, recorder) == built(tmp_path / "two", tiny_model, recorder)


def test_the_suffix_decides_between_film_and_still(tmp_path, frames_of):
    for name, format_, pictures in (("a.gif", "GIF", 9), ("a.png", "PNG", 1)):
        render_file(frames_of(), tmp_path / name, RenderingConfig(theme="terminal", width=480, height=320))
        with Image.open(tmp_path / name) as image:
            assert image.format == format_
            assert getattr(image, "n_frames", 1) == pictures


def test_another_suffix_is_refused(tmp_path, frames_of):
    with pytest.raises(UserError, match=r"a\.mp4: wanted a name ending in \.gif for the film or \.png"):
        render_file(frames_of(), tmp_path / "a.mp4", RENDERING)


def test_a_folder_that_is_not_there_is_named(tmp_path, frames_of):
    with pytest.raises(UserError, match=r"nowhere/a\.gif: can't be written \(No such file or directory\)"):
        render_file(frames_of(), tmp_path / "nowhere" / "a.gif", RENDERING)
