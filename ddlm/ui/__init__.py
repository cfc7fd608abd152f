"""The page: a model that writes while people look on. Gradio shows it; what is shown is made and checked here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for, and how many may ask.

    tokens: of a text of given length. samples: texts side by side. steps: of one text. characters: of what is typed.
    at_once: visitors for whom the model writes, in turns of a step each. waiting: those who queue behind them.
    sessions: visitors whose last texts are kept.
    """

    tokens: int = 1024
    samples: int = 4
    steps: int = 512
    characters: int = 20_000
    at_once: int = 4
    waiting: int = 40
    sessions: int = 200
