"""What `[sampling]` may be, as controls; their help is what the config itself says of each key."""

import ast
import inspect
import re
import textwrap
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from ddlm.diffusion import SAMPLING_PARAMETERS, SamplingConfig
from ddlm.diffusion.unmasking import POLICIES

LABELS = {
    "unmasking": "Order",
    "num_sampling_steps": "Steps",
    "temperature": "Temperature",
    "threshold": "Certain enough",
    "entropy_bound": "Bound",
    "most_per_step": "At most a step",
    "remask_share": "Masked again",
    "top_p": "Top-p",
    "top_k": "Top-k",
    "repetition_penalty": "Repetition penalty",
    "ends": "Where a text ends",
    "grid": "Pace",
    "block_size": "Block size",
    "cache": "Reuse between blocks",
    "final_temperature": "Final temperature",
    "temperature_schedule": "Way to it",
}
"""In the order of the page."""
FIRST = ("unmasking", *SAMPLING_PARAMETERS, "num_sampling_steps", "temperature")
"""What everyone plays with; the others are folded away."""
SLIDERS = {"temperature": (0.0, 2.0, 0.05), "top_p": (0.01, 1.0, 0.01), "repetition_penalty": (1.0, 3.0, 0.05)}
"""From, to, by. The config allows more of some; the command line takes that."""


@dataclass(frozen=True)
class Setting:
    """A key of `[sampling]`. choices: names, where it is one of several. is_whole: an integer. may_be_empty: None."""

    name: str
    label: str
    help: str
    default: Any
    choices: tuple[str, ...]
    is_whole: bool
    may_be_empty: bool

    def suits(self, unmasking: str) -> bool:
        """Whether it means anything to a policy."""
        return unmasking in SAMPLING_PARAMETERS.get(self.name, (unmasking,))


def settings() -> list[Setting]:
    helps = sentences(SamplingConfig)
    return [setting(name, label, helps[name]) for name, label in LABELS.items()]


def setting(name: str, label: str, told: str) -> Setting:
    field = SamplingConfig.model_fields[name]
    kinds = {field.annotation} if get_origin(field.annotation) is Literal else set(get_args(field.annotation))
    kinds = kinds or {field.annotation}
    choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
    return Setting(name, label, told, field.default, choices, int in kinds, NoneType in kinds)


@cache
def sentences(kind: type[BaseModel]) -> dict[str, str]:
    """What stands below each field of a config's class, as one line. Read from its source: Python keeps it nowhere."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(below.value.value).split())
    return found


def order_help(unmasking: str) -> str:
    """The first sentence of what a policy says of itself."""
    told = " ".join((POLICIES[unmasking].__doc__ or "").partition("Source:")[0].split())
    return re.split(r"(?<=\.)\s", told, maxsplit=1)[0]
