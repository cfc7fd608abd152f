"""Texts in the making as HTML. Whatever a visitor or a model wrote is escaped."""

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from ddlm.ui.history import SETTLED, History, Mark

SHADES = 5
"""Colours from unsure to sure."""
BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What half a character decodes to: a byte-level token may be one."""
WORD = re.compile(r"\S+")
PILL = "pill"
"""The look of a mask whose word nobody knows yet."""
LEGEND = '<span class="legend" title="How sure the model was of a new word">unsure<i></i>sure</span>'
EMPTY = "The text appears here. It begins with blanks, and the words come a few at a step."
TOOLS = (
    '<span class="tools"><button type="button" class="copy">Copy</button>'
    '<a class="film" href="{film}" download title="The denoising as a film">GIF</a></span>'
)


@dataclass(frozen=True)
class Sheet:
    """One text, and what it is called where there are several.

    film: where its film is, once it is finished. goes_on: whether it fills the canvas without having come to its end.
    """

    history: History
    title: str = ""
    film: str = ""
    goes_on: bool = False

    @property
    def has_film(self) -> bool:
        return self.history.is_finished and len(self.history) > 1


def sheets_html(sheets: Sequence[Sheet], number: int | None = None) -> str:
    """All texts in their state of that number, or as they are now."""
    begun = [sheet for sheet in sheets if len(sheet.history)]
    inside = "".join(_sheet(sheet, number) for sheet in begun) or f'<article class="sheet"><p>{EMPTY}</p></article>'
    return f'<div class="sheets of-{min(max(len(begun), 1), 2)}">{inside}</div>'


def _sheet(sheet: Sheet, number: int | None) -> str:
    history = sheet.history
    last = len(history) - 1
    at = last if number is None else min(max(number, 0), last)
    share = history.share(at)
    counts = f"step {history.moments[at].step} of {history.steps} · {int(100 * share)} % unmasked"
    title = f"<h3>{html.escape(sheet.title)}</h3>" if sheet.title else ""
    story = "story goes-on" if sheet.goes_on and at == last else "story"
    tools = TOOLS.format(film=html.escape(sheet.film)) if sheet.has_film else ""
    return (
        f'<article class="sheet">{title}<div class="{story}">{story_html(history, at)}</div>'
        f'<div class="rule"><b style="width:{100 * share:.1f}%"></b></div>'
        f'<footer><span class="counts">{counts}</span>{LEGEND}{tools}</footer></article>'
    )


def story_html(history: History, number: int) -> str:
    """The text of a state. Once a text is finished, a mask is as wide as what will stand there: no word ever moves."""
    return "".join(_run(look, text) for look, text in runs(history, number))


def _run(look: str, text: str) -> str:
    if look == PILL:
        return text
    if not look:
        return html.escape(text)
    return WORD.sub(lambda word: f'<span class="{look}">{word.group()}</span>', html.escape(text))


def runs(history: History, number: int) -> Iterator[tuple[str, str]]:
    """Stretches that look alike. Half a character looks like what stands before it, so that it becomes a whole one."""
    decode, looks, tokens = history.tokenizer.decode, list[str](), list[int]()
    for mark in seen(history, number):
        look = look_of(mark)
        if look != PILL and looks and looks[-1] != PILL and BROKEN in decode([mark.token]):
            look = looks[-1]
        looks.append(look)
        tokens.append(mark.token)
    for look, group in groupby(zip(looks, tokens, strict=True), lambda pair: pair[0]):
        ids = [token for _, token in group]
        yield look, "<i></i>" * len(ids) if look == PILL else decode(ids)


def seen(history: History, number: int) -> Iterator[Mark]:
    """The marks of a state, those behind the end of the text left out; masks are hidden words where these are known."""
    ends = history.marks(len(history) - 1) if history.is_finished else None
    for place, mark in enumerate(history.marks(number)):
        if mark.state != "masked" or ends is None:
            if mark.state != "end":
                yield mark
        elif place < len(ends) and ends[place].state != "end":
            known = ends[place].state != "masked"
            yield Mark(ends[place].token, "hidden") if known else mark


def look_of(mark: Mark) -> str:
    """Its classes in the style sheet."""
    if mark.state == "masked":
        return PILL
    if mark.state in ("prompt", "hidden"):
        return mark.state
    shade = min(int(mark.sure * SHADES), SHADES - 1)
    return "" if mark.age >= SETTLED else f"new sure-{shade} age-{mark.age}"
