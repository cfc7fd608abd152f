"""`ddlm open`."""

import sys
from pathlib import Path

import pytest

from ddlm.cli import main, results
from ddlm.config import home


def run(name: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["ddlm", "open", name])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def owl() -> Path:
    folder = home() / "owl"
    folder.mkdir(parents=True)
    for name in results.SHOWN:
        (folder / name).write_text("seen")
    return folder


@pytest.mark.parametrize("has_screen", [True, False])
def test_report_and_film_are_opened_where_there_is_a_screen_and_named_everywhere(
    owl: Path, has_screen: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(results, "has_screen", lambda: has_screen)
    monkeypatch.setattr("webbrowser.open", opened.append)
    paths = [owl / name for name in results.SHOWN]
    for name in ("owl", str(owl)):
        assert run(name, monkeypatch) == 0
        assert capsys.readouterr().out.splitlines() == [str(path) for path in paths]
    assert opened == [path.as_uri() for path in paths] * 2 * has_screen


@pytest.mark.usefixtures("owl")
def test_what_has_nothing_to_show_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fox", monkeypatch) == 2
    assert capsys.readouterr().err == ("ddlm: open fox: no report.html and no denoising.gif there; take one of owl\n")
