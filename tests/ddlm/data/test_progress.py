import io

import pytest
from rich.console import Console

from ddlm.data.progress import RECORDER, bars, shown


def test_a_pipe_gets_the_items_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(shown(iter([1, 2, 3]), "reading", 3)) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_on_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert list(shown(iter([1, 2, 3]), "reading train, stories", 3)) == [1, 2, 3]
    out, err = capsys.readouterr()
    assert not out
    assert "reading train" in err
    assert "3/3 stories" in err
    assert "/s" in err


def test_the_line_stays_one_line_and_its_note_gives_way() -> None:
    screen = Console(width=80, file=io.StringIO(), record=True)
    with bars(screen) as progress:
        task = progress.add_task("training", total=1000, unit="steps", note="3.9 nats a token, 11,204 tokens/s" * 3)
        progress.update(task, completed=420)
    (line,) = screen.export_text().splitlines()
    assert line.startswith("training ━━━━━")
    assert "420/1,000 steps" in line
    assert line.rstrip().endswith("…")
    assert len(line) <= 80


def test_what_is_over_says_how_long_it_took() -> None:
    screen = Console(width=80, file=io.StringIO(), record=True)
    token = RECORDER.set(screen)
    assert list(shown(range(5), "scoring, batches", 5)) == list(range(5))
    RECORDER.reset(token)
    assert "5/5 batches" in screen.export_text(clear=False)
    assert "in 0:00:00" in screen.export_text()


def test_a_bar_without_a_known_end_is_full_in_the_end() -> None:
    screen = Console(width=80, file=io.StringIO(), record=True)
    token = RECORDER.set(screen)
    assert len(list(shown(iter(range(7)), "reading train, stories"))) == 7
    RECORDER.reset(token)
    assert "7/7 stories" in screen.export_text(clear=False)
    assert "in 0:00:00" in screen.export_text()
