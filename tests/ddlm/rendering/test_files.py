"""Films as files, read back by other programs' readers: Pillow's and ffmpeg's."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from ddlm.config import UserError
from ddlm.rendering import THEME_NAMES, RenderingConfig, files
from ddlm.rendering.film import Film

SMALL = {"width": 320, "height": 240, "font_size": 10}
FORMATS = {".gif": "GIF", ".apng": "PNG", ".webp": "WEBP"}


def read(path: Path) -> tuple[list[int], int, str, list[np.ndarray]]:
    """Delays, loop (0: endless), format, and pictures."""
    with Image.open(path) as film:
        delays, pictures = [], []
        for index in range(film.n_frames):
            film.seek(index)
            film.load()
            delays.append(round(film.info["duration"]))
            pictures.append(np.asarray(film.convert("RGB")).astype(int))
        return delays, film.info["loop"], film.format, pictures


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("theme", "ends"), [*((theme, 12) for theme in THEME_NAMES), ("paper", 0)])
def test_delays_endless_loop_and_hold_read_back(tmp_path, frames_of, suffix, theme, ends):
    rendering = RenderingConfig(theme=theme, frame_ms=120, hold_s=2.5, **SMALL)
    path, frames = tmp_path / f"film{suffix}", frames_of(ends=ends)
    files.render_file(frames, path, rendering)
    delays, loop, format_, pictures = read(path)
    assert (loop, format_) == (0, FORMATS[suffix])
    assert delays == [120] * (len(Film(frames, rendering)) - 1) + [2500]
    assert {picture.shape for picture in pictures} == {(240, 320, 3)}


def test_the_hold_is_never_shorter_than_a_frame(tmp_path, frames_of):
    files.render_file(frames_of(), tmp_path / "a.gif", RenderingConfig(theme="terminal", hold_s=0, **SMALL))
    assert read(tmp_path / "a.gif")[0] == [80] * 9


def test_an_mp4_shows_every_picture_for_its_time(tmp_path, frames_of):
    path, frames = tmp_path / "film.mp4", frames_of()
    rendering = RenderingConfig(theme="paper", frame_ms=100, hold_s=1.0, width=481, height=321, font_size=14)
    files.render_file(frames, path, rendering)
    film = Film(frames, rendering)
    assert imageio_ffmpeg.count_frames_and_secs(path) == (len(film) - 1 + 10, sum(film.durations_ms) / 1000)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    decoded = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)
    pictures = decoded.reshape(-1, 322, 482, 3).astype(int)  # players want even numbers; nothing is scaled
    for index in (0, 4, len(film) - 1):
        assert np.abs(pictures[index][:321, :481] - np.asarray(film[index]).astype(int)).mean() < 4
    assert np.abs(pictures[-1] - pictures[len(film) - 1]).mean() < 1, "the end is held"


@pytest.mark.parametrize("suffix", [*FORMATS, ".mp4", ".png"])
def test_the_same_frames_give_the_same_bytes(tmp_path, frames_of, suffix):
    for name in ("one", "two"):
        files.render_file(frames_of(), tmp_path / f"{name}{suffix}", RenderingConfig(theme="neon", **SMALL))
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_a_png_is_the_last_picture(tmp_path, frames_of):
    rendering = RenderingConfig(**SMALL)
    files.render_file(frames_of(), tmp_path / "a.png", rendering)
    with Image.open(tmp_path / "a.png") as still:
        assert getattr(still, "n_frames", 1) == 1
        assert still.tobytes() == Film(frames_of(), rendering)[-1].tobytes()


@pytest.mark.parametrize(("moments", "columns", "rows"), [(2, 2, 1), (6, 3, 2), (9, 3, 3)])
def test_a_contact_sheet_holds_its_moments_side_by_side(tmp_path, frames_of, moments, columns, rows):
    rendering = RenderingConfig(theme="heat", moments=moments, **SMALL)
    files.render_file(frames_of(), tmp_path / "a.png", rendering, sheet=True)
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (columns * (160 + 12) + 12, rows * (120 + 12) + 12)
        film = Film(frames_of(), rendering)
        for place, (left, top) in ((0, (12, 12)), (-1, (sheet.width - 172, sheet.height - 132))):
            expected = film[place].resize((160, 120), Image.Resampling.LANCZOS)
            assert sheet.crop((left, top, left + 160, top + 120)).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["a.avi", "a.GIF", "a"])
def test_another_suffix_is_refused(tmp_path, frames_of, name):
    with pytest.raises(UserError, match=r"wanted a name ending in \.gif, \.apng, \.webp, \.mp4 for the film, or \.png"):
        files.render_file(frames_of(), tmp_path / name, RenderingConfig(**SMALL))


def test_a_sheet_that_moves_is_refused(tmp_path, frames_of):
    with pytest.raises(UserError, match=r"a contact sheet is one picture; wanted a name ending in \.png"):
        files.render_file(frames_of(), tmp_path / "a.gif", RenderingConfig(**SMALL), sheet=True)


def test_mp4_without_ffmpeg_is_one_line_with_the_remedy(tmp_path, frames_of, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(UserError, match=r"\.mp4 wants ffmpeg, which is not here; run .*\[video\]"):
        files.render_file(frames_of(), tmp_path / "a.mp4", RenderingConfig(**SMALL))


def missing() -> str:
    raise RuntimeError("No ffmpeg exe could be found.")


def test_a_folder_that_is_not_there_is_named(tmp_path, frames_of):
    with pytest.raises(UserError, match=r"nowhere/a\.gif: can't be written \(No such file or directory\)"):
        files.render_file(frames_of(), tmp_path / "nowhere" / "a.gif", RenderingConfig(**SMALL))


def test_no_frames_are_refused_and_leave_no_file(tmp_path):
    with pytest.raises(UserError, match="got no frames"):
        files.render_file([], tmp_path / "a.gif", RenderingConfig(**SMALL))
    assert not list(tmp_path.iterdir())


def test_a_film_that_is_interrupted_leaves_the_older_file_as_it_was(tmp_path, frames_of, monkeypatch):
    path = tmp_path / "a.gif"
    path.write_bytes(b"older")

    def interrupted(film: Film, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setitem(files.WRITERS, ".gif", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.render_file(frames_of(), path, RenderingConfig(**SMALL))
    assert path.read_bytes() == b"older"
    assert [file.name for file in tmp_path.iterdir()] == ["a.gif"]


def test_a_film_of_the_heaviest_theme_stays_small(tmp_path, frames_of, story):
    """Below 1.5 MB for 64 steps, as `benchmarks/rendering.py` measures for all themes and formats."""
    frames = frames_of(f"{story} {story}", prompt="It was spring. ", steps=16)
    files.render_file(frames, tmp_path / "a.gif", RenderingConfig(theme="neon", width=1200, height=700))
    assert (tmp_path / "a.gif").stat().st_size < 750_000


def test_ffmpeg_itself_plays_the_gif(tmp_path, frames_of):
    files.render_file(frames_of(), tmp_path / "a.gif", RenderingConfig(theme="neon", **SMALL))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", tmp_path / "a.gif", "-f", "null", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
