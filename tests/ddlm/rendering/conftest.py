"""Denoisings made by hand: the text is known, its tokens open in a drawn order."""

import random
import re
from collections.abc import Callable
from itertools import groupby

import pytest

from ddlm.generation import Frame, Span

STORY = (
    "Once upon a time there was a small fox who lived under the old bridge. Every morning it counted the boats, "
    'and every evening it told the owl how many had come.\n\n"Nine," said the fox one day. "One of them was red."'
)
END = ""


def denoise(text: str = STORY, prompt: str = "", steps: int = 8, ends: int = 12, after: str = "") -> list[Frame]:
    """The frames of a film. `ends` end tokens follow the text, and `after` them what the last frame does not show."""
    tokens = [*split(text), *[END] * ends, *split(after)]
    order = list(range(len(tokens)))
    random.Random(0).shuffle(order)
    opened_at = {position: 1 + rank * steps // len(order) for rank, position in enumerate(order)}
    return [Frame(step, steps, spans(tokens, opened_at, step, steps, prompt)) for step in range(steps + 1)]


def split(text: str) -> list[str]:
    return re.findall(r"\s?\w{1,4}|\W", text)


def spans(tokens: list[str], opened_at: dict[int, int], step: int, steps: int, prompt: str) -> tuple[Span, ...]:
    if step == steps and END in tokens:
        tokens = tokens[: tokens.index(END)]

    def state(position: int) -> str:
        return "masked" if opened_at[position] > step else "new" if opened_at[position] == step else "shown"

    runs = [Span(prompt, "prompt")]
    for name, positions in groupby(range(len(tokens)), state):
        runs.append(Span("".join("█" if name == "masked" else tokens[position] for position in positions), name))
    return tuple(run for run in runs if run.text)


@pytest.fixture
def frames_of() -> Callable[..., list[Frame]]:
    return denoise


@pytest.fixture
def story() -> str:
    return STORY
