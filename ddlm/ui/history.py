"""Every state of one text, kept small: a page keeps those of many visitors."""

from array import array
from collections.abc import Iterator
from typing import NamedTuple

from ddlm.generation import Frame, Tile
from ddlm.generation.frames import frame_of, with_number_of_steps
from ddlm.tokenizer import Tokenizer

STATES = ("prompt", "shown", "new", "masked", "end")
SHOWN, NEW, MASKED, END = (STATES.index(state) for state in STATES[1:])
FADING = 8
"""For so many steps a word looks new, as on the paper of our films."""
SETTLED = FADING


class Mark(NamedTuple):
    """A token and how it looks. age: steps since it was placed, SETTLED when that no longer shows.
    sure: how probable it was then."""

    token: int
    state: str
    age: int = SETTLED
    sure: float = 1.0


class Moment(NamedTuple):
    """One state. sure: of each new token, in their order."""

    step: int
    tokens: "array[int]"
    states: bytes
    sure: "array[float]"


class History:
    """Grows while the text is written; five bytes a token and state."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.moments: list[Moment] = []
        self.num_sampling_steps = 0
        self.is_finished = False

    def __len__(self) -> int:
        return len(self.moments)

    def add(self, frame: Frame) -> None:
        """Frames in which nothing happens any more are left out: other texts of the batch go on."""
        tokens = array("i", [tile.token for tile in frame.tiles])
        states = bytes(STATES.index(tile.state) for tile in frame.tiles)
        if self.moments and NEW not in states and tokens == self.moments[-1].tokens:
            return
        sure = array("f", [tile.confidence for tile in frame.tiles if tile.state == "new"])
        self.num_sampling_steps = frame.num_sampling_steps
        self.moments.append(Moment(frame.step, tokens, states, sure))

    def share(self, number: int) -> float:
        """How much of what is to be written stands, from 0 to 1."""
        masked, written = self.moments[number].states.count(MASKED), self.written(number)
        return written / max(1, masked + written)

    def written(self, number: int) -> int:
        """Tokens of text that the model has placed."""
        states = self.moments[number].states
        return states.count(NEW) + states.count(SHOWN)

    def marks(self, number: int) -> list[Mark]:
        """The tokens of a state and how old they are; of a finished text's last state all have settled."""
        moment = self.moments[number]
        is_last = self.is_finished and number == len(self) - 1
        placed = {} if is_last else dict(self._placed(number))
        return [
            Mark(token, STATES[state], *placed.get(place, (SETTLED, 1.0)))
            for place, (token, state) in enumerate(zip(moment.tokens, moment.states, strict=True))
        ]

    def _placed(self, number: int) -> Iterator[tuple[int, tuple[int, float]]]:
        """Places of tokens that still look new, with age and sureness; the latest word on a place comes last."""
        for back in range(min(FADING - 1, number), -1, -1):
            moment = self.moments[number - back]
            new = (place for place, state in enumerate(moment.states) if state == NEW)
            yield from ((place, (back, sure)) for place, sure in zip(new, moment.sure, strict=True))

    def frames(self) -> list[Frame]:
        """What was added, for a film."""
        return with_number_of_steps([self._frame(moment) for moment in self.moments])

    def _frame(self, moment: Moment) -> Frame:
        sure = iter(moment.sure)
        tiles = [
            Tile(token, STATES[state], next(sure) if state == NEW else 0.0)
            for token, state in zip(moment.tokens, moment.states, strict=True)
        ]
        return frame_of(tiles, self.tokenizer, moment.step, self.num_sampling_steps)
