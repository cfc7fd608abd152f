"""What the pipeline gives back."""

from dataclasses import dataclass

CUT_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""A text may be cut off between the bytes of one."""


@dataclass(frozen=True)
class Sample:
    """One text, prompt included, up to its end. `tokens` are its ids; `number` and `seed` fix it.

    ended: whether the model ended it, or its length was given; if not, the canvas cut it off.
    """

    text: str
    tokens: tuple[int, ...]
    prompt: str
    seed: int
    number: int
    ended: bool


@dataclass(frozen=True)
class Generation:
    """Samples and what they cost.

    num_sampling_steps: of the text that took most. calls: runs of the network over a whole batch. tokens_per_s: tokens
    of text that were written, prompts and the tail behind the end not counted.
    """

    samples: tuple[Sample, ...]
    num_sampling_steps: int
    calls: int
    seconds: float
    tokens_per_s: float
    unmasking: str
    precision: str


@dataclass(frozen=True)
class Score:
    """A text's negative log-likelihood, its end included, or an upper bound on it: `bound` says which.

    stderr: Monte-Carlo, of nll_nats; 0 for what is exact.
    """

    nll_nats: float
    nll_nats_stderr: float
    bits_per_byte: float
    tokens: int
    bound: str = "upper"


def with_ellipsis(text: str, *, ended: bool) -> str:
    """For people: an ellipsis says that a text goes on behind what stands here."""
    return text if ended else f"{text.rstrip(CUT_CHARACTER).rstrip()} …"
