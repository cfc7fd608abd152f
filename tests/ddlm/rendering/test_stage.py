from PIL import Image

from ddlm.artifacts import Workspace, sha256_file
from ddlm.diffusion import SamplingConfig
from ddlm.generation import DiffusionPipeline
from ddlm.rendering import RenderingConfig
from ddlm.rendering.stage import build

RENDERING = RenderingConfig(prompt="Once upon", width=480, height=320, frame_ms=60, moments=4)
FILES = ["denoising.gif", "final.png", "middle.png", "moments.png"]


def built(folder, model, recorder):
    folder.mkdir()
    sampling = SamplingConfig(num_sampling_steps=6)
    build(Workspace({"train": model}, folder, folder, recorder), seed=3, sampling=sampling, rendering=RENDERING)
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def test_the_stage_writes_a_film_two_stills_and_a_contact_sheet(tmp_path, tiny_model, recorder):
    assert list(built(tmp_path / "out", tiny_model, recorder)) == FILES
    with Image.open(tmp_path / "out" / "denoising.gif") as gif:
        assert gif.size == (480, 320)
        assert gif.n_frames >= 7
        assert gif.info["duration"] == 60
    stills = [Image.open(tmp_path / "out" / name).tobytes() for name in ("middle.png", "final.png")]
    assert stills[0] != stills[1]


def test_the_same_model_and_seed_give_the_same_files(tmp_path, tiny_model, recorder):
    assert built(tmp_path / "one", tiny_model, recorder) == built(tmp_path / "two", tiny_model, recorder)


def test_a_models_frames_know_their_tokens_one_by_one(tiny_model):
    pipeline = DiffusionPipeline.from_pretrained(tiny_model)
    frames = pipeline.frames("Once upon", sampling=SamplingConfig(num_sampling_steps=6), seed=3)
    canvas = len(frames[0].tiles)
    for frame in frames:
        states = [tile.state for tile in frame.tiles]
        assert states.count("masked") == frame.masked
        assert len(states) <= canvas
        shown = "".join(span.text for span in frame.spans if span.state != "masked")
        assert all(0 < tile.confidence <= 1 for tile in frame.tiles if tile.state == "new")
    tokens = [tile.token for tile in frames[-1].tiles if tile.state != "end"]
    said = pipeline.tokenizer.decode(tokens)  # broken characters break differently where tokens are joined
    assert said.replace("\ufffd", "") == shown.replace("\ufffd", "")
    assert sum(tile.state == "new" for frame in frames for tile in frame.tiles) >= len(tokens) - 9
