"""The terminal as a picture: what watching and bars look like, and that they look alike."""

import io
import logging
import re
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console

from ddlm.cli.recording import record_watch, recording
from ddlm.cli.watch import View, styled
from ddlm.data.progress import RECORDER, bar
from ddlm.generation import Frame, Span

FRAMES = [
    Frame(0, 2, (Span("Once", "prompt"), Span("███", "masked"))),
    Frame(1, 2, (Span("Once", "prompt"), Span(" a", "new", 0.9), Span("█", "masked"), Span(" fox", "new", 0.1))),
    Frame(2, 2, (Span("Once", "prompt"), Span(" a", "shown"), Span(" red", "new", 0.5), Span(" fox", "shown"))),
]


def text_of(path: Path) -> str:
    return " ".join("".join(ElementTree.parse(path).getroot().itertext()).split())


def test_watching_is_recorded_at_its_moment_and_says_how_far_it_is(tmp_path: Path) -> None:
    record_watch(iter(FRAMES), tmp_path / "watch.svg", at=0.5)
    text = text_of(tmp_path / "watch.svg")
    assert "writing" in text
    assert "1/2 steps" in text
    assert "1 masks" in text
    assert "Once a█ fox" in text
    assert "red" not in text


def test_a_recording_holds_log_and_bars_as_they_end_and_loads_nothing(tmp_path: Path) -> None:
    logging.getLogger("ddlm").setLevel(logging.INFO)
    with recording(tmp_path / "run.svg", "ddlm run"):
        logging.getLogger("ddlm.experiment").info("train: [bold]building")
        with bar("training, steps", 100) as show:
            for step in (10, 40):
                show(step, "3.9 nats a token")
    text = text_of(tmp_path / "run.svg")
    assert "INFO train: [bold]building" in text
    assert text.count("/100 steps") == 1
    assert "40/100 steps" in text
    assert "3.9 nats a token" in text
    source = (tmp_path / "run.svg").read_text()
    assert "@font-face" not in source
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?http", source)


def test_after_a_recording_the_terminal_is_itself_again(tmp_path: Path) -> None:
    with recording(tmp_path / "a.svg", "title"):
        assert RECORDER.get()
    assert RECORDER.get() is None


def test_watching_and_bars_share_colours_and_words(tmp_path: Path) -> None:
    record_watch(iter(FRAMES), tmp_path / "watch.svg", at=0.5)
    with recording(tmp_path / "bars.svg", "bars"), bar("writing, steps", 2) as show:
        show(1, "1 masks")
    looks = [set(re.findall(r"fill: (#\w+)", (tmp_path / name).read_text())) for name in ("watch.svg", "bars.svg")]
    assert looks[1] <= looks[0]


def test_new_words_have_the_colour_of_their_confidence() -> None:
    styles = {frame_text: str(span.style) for frame_text, span in spans(styled(FRAMES[1]))}
    assert styles == {"Once": "dim", " a": "bold cyan", "█": "bright_black", " fox": "bold red"}


def spans(text):
    return [(text.plain[span.start : span.end], span) for span in text.spans]


def test_a_text_taller_than_the_terminal_shows_its_bar_and_its_last_lines() -> None:
    screen = Console(width=60, height=10, file=io.StringIO(), force_terminal=True, record=True)
    text = "\n".join(f"line {number}" for number in range(50))
    screen.print(View(screen).of(Frame(1, 2, (Span(text, "shown"),))))
    lines = screen.export_text().splitlines()
    assert len(lines) <= 10
    assert lines[0].startswith("writing")
    assert lines[-1] == "line 49"
