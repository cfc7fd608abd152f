"""One visitor's texts: written step by step, stopped at any of them, and kept until the next ones."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ddlm.diffusion import SamplingConfig
from ddlm.generation import DiffusionPipeline, drafts
from ddlm.generation.words import title
from ddlm.rendering import RenderingConfig
from ddlm.rendering.files import render_file
from ddlm.ui.history import History
from ddlm.ui.order import Order
from ddlm.ui.sheet import Sheet
from ddlm.ui.shelf import Loaded

FRAME_S = 0.08
"""The page is told no more often: it would lag behind a model that takes a millisecond a step."""
DONE = object()


class Way:
    """The texts of an order in one way of writing. Iterating writes them.

    each: of a gap of unknown length this many lengths are tried for every text, and one is kept.
    cut_off: the texts that fill the canvas and would go on.
    """

    def __init__(self, pipeline: DiffusionPipeline, order: Order, sampling: SamplingConfig) -> None:
        self.pipeline = pipeline
        drafted = [drafted_for(pipeline, order, number) for number in range(order.num_samples)]
        tried = [draft for of_text in drafted for draft in of_text]
        self.each = len(drafted[0])
        self.writing = pipeline.writing(tried, sampling, order.seed)
        self.histories = [History(pipeline.tokenizer, order.length) for _ in tried]
        self.kept = list(range(0, len(tried), self.each))
        self.cut_off: frozenset[int] = frozenset()

    def __iter__(self) -> Iterator[None]:
        for snapshot in self.writing:
            for row, number in enumerate(snapshot.numbers):
                self.histories[number].add(snapshot.frame(row))
            yield
        samples = self.pipeline.samples_of(self.writing)
        self.cut_off = frozenset(place for place, sample in enumerate(samples) if not sample.ended)
        if self.each > 1:
            self.kept = self.pipeline.likeliest(self.writing.drafts, samples, self.each)

    @property
    def unmasking(self) -> str:
        return self.writing.sampling.unmasking


def drafted_for(pipeline: DiffusionPipeline, order: Order, number: int) -> list[drafts.Draft]:
    """Raises: UserError when the text leaves no room."""
    if order.has_gaps:
        return drafts.gapped(pipeline.tokenizer, order.text, number, seq_len=pipeline.seq_len)
    return [drafts.prompted(pipeline.tokenizer, order.text, number, seq_len=pipeline.seq_len, length=order.length)]


class Desk:
    """A visitor's. sheets: their texts as far as they are. lengths: how many are tried for the gaps of each text."""

    def __init__(self) -> None:
        self.sheets: list[Sheet] = []
        self.lengths = 1
        self.token = ""
        self._stop = threading.Event()

    def start(self) -> None:
        """New texts are wanted: whoever stopped the last ones did not mean these."""
        self._stop = threading.Event()

    def write(self, loaded: Loaded, order: Order) -> Generator[float]:
        """Yields the tokens written a second, as often as it is worth a look. Raises: UserError before the first."""
        ways = [Way(loaded.pipeline, order, sampling) for sampling in order.ways]
        stop = self._stop
        self.token = secrets.token_urlsafe(12)
        self.sheets, self.lengths = sheets_of(ways, self.token), ways[0].each
        started = told = time.monotonic()
        try:
            for _ in in_turns(ways, loaded.turn, stop):
                if (now := time.monotonic()) - told >= FRAME_S:
                    told = now
                    yield speed(self.sheets, now - started)
            yield speed(self.sheets, time.monotonic() - started)
        finally:
            if self._stop is stop:
                self.sheets = sheets_of(ways, self.token)
                self._finish()

    def stop(self) -> None:
        """Nothing is computed after the step that is being taken; what stands is kept."""
        self._stop.set()
        self._finish()

    def _finish(self) -> None:
        for sheet in self.sheets:
            sheet.history.is_finished = True

    @property
    def is_stopped(self) -> bool:
        return self._stop.is_set()

    def film(self, number: int) -> bytes | None:
        """A text's denoising as a GIF; None when there is no such text, or not yet."""
        if not 0 <= number < len(self.sheets) or not self.sheets[number].has_film:
            return None
        with TemporaryDirectory() as folder:
            path = Path(folder) / "film.gif"
            render_file(self.sheets[number].history.frames(), path, RenderingConfig())
            return path.read_bytes()

    @property
    def last(self) -> int:
        """The number of the last state, of the text that has most."""
        return max((len(sheet.history) - 1 for sheet in self.sheets), default=0)


class Desks:
    """Of all visitors, by what their browsers call their sessions; of the last `most` of them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._desks: OrderedDict[str, Desk] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, session: str) -> Desk:
        with self._lock:
            desk = self._desks.setdefault(session, Desk())
            self._desks.move_to_end(session)
            while len(self._desks) > self.most:
                self._desks.popitem(last=False)[1].stop()
            return desk

    def leave(self, session: str) -> None:
        """The visitor is gone."""
        with self._lock:
            desk = self._desks.pop(session, None)
        if desk:
            desk.stop()

    def with_film(self, token: str) -> Desk | None:
        with self._lock:
            return next((desk for desk in self._desks.values() if desk.token == token), None)


def in_turns(ways: Sequence[Way], turn: threading.Lock, stop: threading.Event) -> Iterator[None]:
    """A step of each way, and again, until all are written or somebody stops it. Other visitors' steps come between."""
    going = [iter(way) for way in ways]
    while going and not stop.is_set():
        for way in list(going):
            with turn:
                is_done = next(way, DONE) is DONE
            if is_done:
                going.remove(way)
        yield


def sheets_of(ways: Sequence[Way], token: str) -> list[Sheet]:
    shown = [(way, place) for way in ways for place in way.kept]
    several = len(shown) > len(ways)
    sheets = []
    for number, (way, place) in enumerate(shown):
        parts = [title(way.unmasking)] if len(ways) > 1 else []
        parts += [f"text {place // way.each + 1}"] if several else []
        sheets.append(
            Sheet(way.histories[place], " · ".join(parts), f"film/{token}/{number}.gif", place in way.cut_off)
        )
    return sheets


def speed(sheets: Sequence[Sheet], seconds: float) -> float:
    """Tokens a second."""
    return sum(sheet.history.last.written for sheet in sheets if len(sheet.history)) / max(seconds, 1e-9)
