"""A film: the pictures of one denoising in one theme, and how long each is shown."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from PIL import Image

from ddlm.generation import Frame
from ddlm.rendering import RenderingConfig, require_theme
from ddlm.rendering.heat import Heat
from ddlm.rendering.layout import Line
from ddlm.rendering.neon import Neon
from ddlm.rendering.paper import Paper
from ddlm.rendering.storyboard import NEVER, Moment, storyboard
from ddlm.rendering.terminal import Terminal
from ddlm.rendering.theme import Shot, Theme

THEMES: dict[str, type[Theme]] = {"paper": Paper, "terminal": Terminal, "neon": Neon, "heat": Heat}


class Film(Sequence[Image.Image]):
    """Pictures drawn when asked for: one a frame, then those in which the last new words settle.

    A text that is too long for one picture has pages. The film stays on the first page that is not finished; before it
    turns a page, the words on it settle and it is held as long as the end.
    """

    def __init__(self, frames: Sequence[Frame], rendering: RenderingConfig) -> None:
        self.theme = THEMES[require_theme(rendering.theme)](rendering.width, rendering.height, frames)
        self.moments = storyboard(frames)
        lasting = {moment.text[: moment.lasting] for moment in self.moments}
        self.font_size = self.theme.panel.size_for(sorted(lasting), rendering.font_size)
        self.shots = list(self._shots(rendering.frame_ms, max(rendering.frame_ms, round(rendering.hold_s * 100) * 10)))

    def __len__(self) -> int:
        return len(self.shots)

    def __getitem__(self, index: int) -> Image.Image:  # type: ignore[override]  # slices of a film are not needed
        return self.theme.paint(self.shots[index], self.font_size)

    @property
    def durations_ms(self) -> list[int]:
        """How long each picture is shown."""
        return [shot.ms for shot in self.shots]

    @property
    def middle(self) -> Image.Image:
        """The picture half way through the denoising."""
        wanted = len(self.moments) // 2
        return self[next(place for place, shot in enumerate(self.shots) if shot.moment.number == wanted)]

    def chosen(self, count: int) -> list[int]:
        """The places of `count` pictures, evenly spread from the first to the last, none twice."""
        places = sorted({shot.moment.number: place for place, shot in reversed(list(enumerate(self.shots)))}.values())
        places[-1] = len(self) - 1
        last = len(places) - 1
        return [places[place] for place in sorted({round(last * part / max(1, count - 1)) for part in range(count)})]

    def _shots(self, frame_ms: int, hold_ms: int) -> Iterator[Shot]:
        page = 0
        for moment in self.moments:
            pages = self._pages(moment)
            page = min(page, len(pages) - 1)
            while page < front(moment, pages):
                yield from self._held(moment, pages, page, frame_ms, hold_ms)
                page += 1
            if moment is not self.moments[-1]:
                yield Shot(moment, pages[page], page, len(pages), frame_ms)
        yield from self._held(self.moments[-1], self._pages(self.moments[-1]), page, frame_ms, hold_ms)

    def _held(
        self, moment: Moment, pages: Sequence[tuple[Line, ...]], page: int, frame_ms: int, hold_ms: int
    ) -> Iterator[Shot]:
        """A page that is finished: its words settle, and it stays."""
        fresh = max(0, self.theme.fade_steps - youngest(moment, pages[page]))
        for steps in range(fresh + 1):
            ms = hold_ms if steps == fresh else frame_ms
            yield Shot(older(moment, steps), pages[page], page, len(pages), ms)

    def _pages(self, moment: Moment) -> list[tuple[Line, ...]]:
        return self.theme.panel.pages(moment.text, self.font_size, moment.lasting)


def front(moment: Moment, pages: Sequence[Sequence[Line]]) -> int:
    """The first page with a mask, the last one where none is left."""
    states = (mark_states(moment, page) for page in pages)
    return next((number for number, found in enumerate(states) if "masked" in found), len(pages) - 1)


def mark_states(moment: Moment, page: Sequence[Line]) -> set[str]:
    return {moment.marks[place].state for place in places_on(page)}


def places_on(page: Sequence[Line]) -> Iterator[int]:
    """The numbers of the characters that are seen on a page."""
    return (place for line in page for piece in line.pieces for place in range(piece.start, piece.end))


def older(moment: Moment, steps: int) -> Moment:
    """The same moment some steps later, nothing having changed but the age of its words."""
    return replace(moment, marks=tuple(mark._replace(age=mark.age + steps) for mark in moment.marks))


def youngest(moment: Moment, page: Sequence[Line]) -> int:
    """The age of the newest character on a page."""
    return min((moment.marks[place].age for place in places_on(page)), default=NEVER)
