"""The names by which people look for a metric first, next to the ones that say its unit."""

import math
from collections.abc import Callable, Mapping

MOST_NATS = 700.0
"""exp of more is no float."""


def _perplexity(nats: float) -> float:
    return math.exp(min(nats, MOST_NATS))


def _same(nats: float) -> float:
    return nats


ALIASES: Mapping[str, tuple[str, Callable[[float], float]]] = {
    "train/loss": ("train/nll_nats", _same),
    "val/loss": ("val/nll_nats", _same),
    "train/perplexity": ("train/nll_nats", _perplexity),
    "val/perplexity": ("val/nll_nats", _perplexity),
    "evaluation/perplexity": ("evaluation/nll_nats", _perplexity),
}
"""By alias: of which metric, and how it is made."""


def with_aliases(metrics: Mapping[str, float]) -> dict[str, float]:
    found = {alias: made(metrics[name]) for alias, (name, made) in ALIASES.items() if name in metrics}
    return {**found, **metrics}
