import pytest

from ddlm.data.progress import shown


def test_a_pipe_gets_the_items_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(shown(iter([1, 2, 3]), "reading", 3)) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_on_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert list(shown(iter([1, 2, 3]), "reading train, stories", 3)) == [1, 2, 3]
    out, err = capsys.readouterr()
    assert not out
    assert "reading train, stories" in err
