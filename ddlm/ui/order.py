"""What a visitor asks for. Nothing that comes from the page goes further unchecked."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from ddlm.config import Section, UserError, parse
from ddlm.diffusion import SAMPLING_PARAMETERS, SamplingConfig
from ddlm.generation.drafts import GAP
from ddlm.ui import Limits

LARGEST_SEED = 2**53
"""Above it a browser's numbers have gaps."""
SETTINGS = tuple(SamplingConfig.model_fields)


class Wish(Section):
    """An order as the page sends it."""

    text: str = ""
    samples: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    length: int | None = Field(default=None, ge=1)
    rival: str | None = None
    sampling: SamplingConfig = SamplingConfig()


@dataclass(frozen=True)
class Order:
    """Texts to write. ways: one way of writing, or two that are shown side by side."""

    text: str
    num_samples: int
    seed: int
    length: int | None
    ways: tuple[SamplingConfig, ...]

    @property
    def has_gaps(self) -> bool:
        return GAP.search(self.text) is not None


def read_order(values: Mapping[str, Any], limits: Limits) -> Order:
    """From the values of the controls to an order. Empty ones are None or "", and numbers may still be text.

    Raises: UserError for what no control can say, what is out of range, and what is beyond the limits.
    """
    given = {name: number(value) if name != "text" else value for name, value in values.items()}
    given = {name: value for name, value in given.items() if value not in (None, "")}
    others = {name: value for name, value in given.items() if name not in SETTINGS}
    wish = parse(Wish, {**others, "sampling": chosen(given, given.get("unmasking"))}, source="settings")
    ways = [wish.sampling]
    if wish.rival is not None and wish.rival != wish.sampling.unmasking:
        rival = chosen({**given, "unmasking": wish.rival}, wish.rival)
        ways.append(parse(SamplingConfig, rival, source="settings, the second order"))
    _require_within(wish, limits)
    order = Order(wish.text, wish.samples, wish.seed, wish.length, tuple(ways))
    if order.has_gaps and order.length is not None:
        raise UserError(f"length {order.length}: a text with gaps has its own; empty one of the two")
    return order


def number(value: object) -> object:
    """What is typed, as the number that it is, or as it is."""
    if isinstance(value, str):
        with suppress(ValueError):
            return int(value)
        with suppress(ValueError):
            return float(value)
    return value


def chosen(given: Mapping[str, Any], unmasking: object) -> dict[str, Any]:
    """Values of `[sampling]`, without the parameters of other policies: their controls are hidden, not empty."""
    return {
        name: given[name]
        for name in SETTINGS
        if name in given and (name not in SAMPLING_PARAMETERS or unmasking in SAMPLING_PARAMETERS[name])
    }


def _require_within(wish: Wish, limits: Limits) -> None:
    asked = {
        "text": (len(wish.text), limits.characters, "characters"),
        "length": (wish.length or 0, limits.tokens, "tokens"),
        "samples": (wish.samples, limits.samples, "texts at once"),
        "steps": (wish.sampling.num_sampling_steps, limits.steps, "steps"),
    }
    for name, (got, most, unit) in asked.items():
        if got > most:
            raise UserError(f"{name}: got {got:,} {unit}; this page takes at most {most:,}")
