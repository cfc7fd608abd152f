import io

import pytest

from ddlm.export.runtime.terminal import Screen, folded, printable, width_of


class Terminal(io.StringIO):
    """One that understands the two sequences that are written: so many lines up, and away with the rest."""

    def isatty(self):
        return True

    def lines(self):
        shown = [""]
        for part in self.getvalue().replace("\x1b[J", "").split("\x1b["):
            up, _, text = part.partition("F") if part.partition("F")[0].isdigit() else ("", "", part)
            if up:
                del shown[-1 - int(up) :]
                shown.append("")
            head, *rest = text.replace("2m", "").replace("0m", "").split("\n")
            shown[-1] += head
            shown += rest
        return shown


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "5")
    return Terminal()


def test_a_state_takes_the_place_of_the_one_before(small):
    with Screen(small) as screen:
        screen.show("One day ████", "step 1")
        assert small.lines() == ["One day ████", "step 1", ""]
        screen.show("One day she went home and slept well", "step 2")
        assert small.lines() == ["One day she went", "home and slept well", "step 2", ""]
        screen.show("short", "step 3")
        assert small.lines() == ["short", "step 3", ""]
    assert small.lines() == [""]


def test_what_is_higher_than_the_terminal_is_cut_at_the_top(small):
    with Screen(small) as screen:
        screen.show("a\nb\nc\nd\ne", "step 1")
        assert small.lines() == ["c", "d", "e", "step 1", ""]


def test_without_a_terminal_each_state_is_a_line():
    out = io.StringIO()
    with Screen(out) as screen:
        screen.show("One\nday ██", "step 1")
        screen.show("One\nday it", "step 2")
    assert out.getvalue() == "One day ██\nOne day it\n"


def test_nothing_that_is_written_steers_the_terminal():
    assert printable("a\x1b[2Jb\x07\r\u202e\nc") == "a [2Jb   \nc"


@pytest.mark.parametrize(("text", "lines"), [
    ("", [""]), ("abc", ["abc"]), ("abcdef", ["abcd", "ef"]), ("ab cd ef", ["ab", "cd", "ef"]),
    ("ab   c", ["ab  ", "c"]), ("日本語", ["日本", "語"]), ("e\u0301" * 5, ["e\u0301" * 4, "e\u0301"]),
])  # fmt: skip
def test_lines_are_folded_at_spaces_and_by_the_columns_they_take(text, lines):
    found = list(folded(text, 4))
    assert found == lines
    assert all(width_of(line) <= 4 for line in found)
