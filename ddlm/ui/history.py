"""Every state of one text, kept small: a page keeps those of many visitors."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ddlm.generation import Frame, Tile
from ddlm.generation.frames import frame_of, with_number_of_steps
from ddlm.tokenizer import Tokenizer

FADING = 8
"""For so many steps a word looks new, as on the paper of our films."""
SETTLED = FADING


class Mark(NamedTuple):
    """A token as it is seen. state: as of a tile. age: steps since it was placed, SETTLED when that no longer shows.
    sure: how probable it was then."""

    token: int
    state: str
    age: int = SETTLED
    sure: float = 1.0


class Moment(NamedTuple):
    """What a step changed: tokens, and how sure the model was of them, at places of a text that is now `size` long.

    masked, written: how many tokens are masks, and how many the model has placed.
    """

    step: int
    size: int
    places: "array[int]"
    tokens: "array[int]"
    sure: "array[float]"
    masked: int
    written: int


class History:
    """Grows while the text is written. A token written once takes twelve bytes, however many steps there are.

    to_write: how many tokens that will be, where it is known; a text that is longer than the canvas shows a window of
    it at a time.
    """

    def __init__(self, tokenizer: Tokenizer, to_write: int | None = None) -> None:
        self.tokenizer, self.to_write = tokenizer, to_write
        self.moments: list[Moment] = []
        self.num_sampling_steps = 0
        self.is_finished = False
        self._given: frozenset[int] = frozenset()
        self._now: list[int] = []

    def __len__(self) -> int:
        return len(self.moments)

    def add(self, frame: Frame) -> None:
        """Frames in which nothing happens any more are left out: other texts of the batch go on."""
        if not self.moments:
            self._given = frozenset(place for place, tile in enumerate(frame.tiles) if tile.state == "prompt")
        known = [*self._now, *[None] * len(frame.tiles)]
        changed = [place for place, tile in enumerate(frame.tiles) if tile.state == "new" or tile.token != known[place]]
        if self.moments and not changed and len(frame.tiles) == len(self._now):
            return
        self._now = [tile.token for tile in frame.tiles]
        states = [tile.state for tile in frame.tiles]
        self.num_sampling_steps = frame.num_sampling_steps
        self.moments.append(
            Moment(
                frame.step, len(states), array("i", changed), array("i", [self._now[place] for place in changed]),
                array("f", [frame.tiles[place].confidence for place in changed]),
                states.count("masked"), states.count("new") + states.count("shown"),
            )
        )  # fmt: skip

    @property
    def last(self) -> Moment:
        return self.moments[-1]

    def share(self, number: int) -> float:
        """How much of what is to be written stands, from 0 to 1."""
        moment = self.moments[number]
        return moment.written / max(1, self.to_write or 0, moment.masked + moment.written)

    @property
    def steps(self) -> int:
        """Those that were taken once the text is whole, and until then how many there are at most."""
        last = self.last
        is_whole = not last.masked and last.written >= (self.to_write or 0)
        return last.step if self.is_finished and is_whole else self.num_sampling_steps

    def marks(self, number: int) -> list[Mark]:
        """The tokens of a state and how old they are; of a finished text's last state all have settled."""
        is_over = self.is_finished and number == len(self) - 1
        return self._marks(number, {} if is_over else dict(self._placed(number)))

    def _marks(self, number: int, placed: Mapping[int, tuple[int, float]]) -> list[Mark]:
        marks = [Mark(token, self._state(place, token)) for place, token in enumerate(self.tokens(number))]
        for place, (age, sure) in placed.items():
            if place < len(marks) and marks[place].state == "shown":
                marks[place] = marks[place]._replace(age=age, sure=sure)
        return marks

    def tokens(self, number: int) -> Sequence[int]:
        """The text of a state."""
        if number == len(self) - 1:
            return self._now
        tokens: list[int] = []
        for moment in self.moments[: number + 1]:
            tokens[moment.size :] = [0] * (moment.size - len(tokens))
            for place, token in zip(moment.places, moment.tokens, strict=True):
                tokens[place] = token
        return tokens

    def _state(self, place: int, token: int) -> str:
        if token == self.tokenizer.mask_id:
            return "masked"
        if token in self.tokenizer.stop_ids:
            return "end"
        return "prompt" if place in self._given else "shown"

    def _placed(self, number: int) -> Iterator[tuple[int, tuple[int, float]]]:
        """Places that have changed lately, with age and sureness; the latest change of a place comes last."""
        for back in range(min(FADING - 1, number), -1, -1):
            moment = self.moments[number - back]
            yield from ((place, (back, sure)) for place, sure in zip(moment.places, moment.sure, strict=True))

    def frames(self) -> list[Frame]:
        """What was added, for a film."""
        return with_number_of_steps([self._frame(number) for number in range(len(self))])

    def _frame(self, number: int) -> Frame:
        tiles = [
            Tile(mark.token, "new", mark.sure) if mark.age == 0 else Tile(mark.token, mark.state)
            for mark in self._marks(number, dict(self._placed(number)))
        ]
        return frame_of(tiles, self.tokenizer, self.moments[number].step, self.num_sampling_steps)
