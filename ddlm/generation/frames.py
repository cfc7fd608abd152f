"""A canvas as people see it: stretches of text and masks."""

from dataclasses import dataclass, replace
from itertools import groupby

from ddlm.tokenizer import Tokenizer

MASK_SIGN = "█"


@dataclass(frozen=True)
class Span:
    """A stretch of a frame: `state` is prompt, shown, new or masked. A masked token is one █.

    confidence: of new text, the mean probability of its tokens when they were drawn.
    """

    text: str
    state: str
    confidence: float | None = None


@dataclass(frozen=True)
class Tile:
    """One token of a text in the making. state: as of a span, or end, which shows nothing. confidence: of a new one."""

    token: int
    state: str
    confidence: float = 0.0


@dataclass(frozen=True)
class Frame:
    """The text after a step; step 0 is before the first. num_sampling_steps: how many the
    whole text takes at most.

    tiles: its tokens one by one, where whoever made the frame knows them.
    """

    step: int
    num_sampling_steps: int
    spans: tuple[Span, ...]
    tiles: tuple[Tile, ...] = ()

    @property
    def masked(self) -> int:
        """How many tokens are masks."""
        return sum(len(span.text) for span in self.spans if span.state == "masked")


def frame_of(tiles: list[Tile], tokenizer: Tokenizer, step: int, num_sampling_steps: int) -> Frame:
    """Neighbours of a state are one span. End tokens and tags show nothing."""
    spans = []
    for state, group in groupby((tile for tile in tiles if tile.state != "end"), lambda tile: tile.state):
        run = list(group)
        text = MASK_SIGN * len(run) if state == "masked" else tokenizer.decode(tile.token for tile in run)
        confidence = sum(tile.confidence for tile in run) / len(run) if state == "new" else None
        if text:
            spans.append(Span(text, state, confidence))
    return Frame(step, num_sampling_steps, tuple(spans), tuple(tiles))


def with_number_of_steps(frames: list[Frame]) -> list[Frame]:
    """The same, knowing how many there were: a policy that decides for itself may need fewer than it was allowed."""
    return [replace(frame, num_sampling_steps=frames[-1].step) for frame in frames]
