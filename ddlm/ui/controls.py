"""What `[sampling]` may be, as controls, in the words that both pages share."""

from dataclasses import dataclass
from types import NoneType
from typing import Any, get_args

from ddlm.diffusion import SAMPLING_PARAMETERS, SamplingConfig
from ddlm.generation.words import CHOICES, HELP, LABELS, NOT_PLAIN, ORDERS, USUAL, title

FIRST = ("unmasking", *SAMPLING_PARAMETERS, "num_sampling_steps", "temperature")
"""What everyone plays with; the others are folded away."""
SLIDERS = {"temperature": (0.0, 2.0, 0.05), "top_p": (0.01, 1.0, 0.01), "repetition_penalty": (1.0, 3.0, 0.05)}
"""From, to, by. The config allows more of some; the command line takes that."""


@dataclass(frozen=True)
class Setting:
    """A key of `[sampling]`. choices: what each does, where it is one of several. is_whole: an integer. may_be_empty:
    None."""

    name: str
    label: str
    choices: dict[str, str]
    is_whole: bool
    may_be_empty: bool

    @property
    def default(self) -> Any:
        return SamplingConfig.model_fields[self.name].default

    def help(self, value: Any) -> str:
        """A sentence on it, or on what is chosen."""
        return self.choices[value] if self.choices else HELP[self.name]

    def suits(self, unmasking: str) -> bool:
        """Whether it means anything to a policy."""
        return unmasking in SAMPLING_PARAMETERS.get(self.name, (unmasking,))


def settings() -> list[Setting]:
    return [setting(name, label) for name, label in LABELS.items()]


def setting(name: str, label: str) -> Setting:
    kind = SamplingConfig.model_fields[name].annotation
    kinds = set(get_args(kind)) or {kind}
    return Setting(name, label, CHOICES.get(name, {}), int in kinds, NoneType in kinds)


def titled(setting: Setting) -> list[tuple[str, str]]:
    """Titles and values of a list. Orders that are not among the usual ones say so."""
    if setting.choices is not ORDERS:
        return [(title(name), name) for name in setting.choices]
    return [(title(name) if name in USUAL else f"{title(name)} · {NOT_PLAIN}", name) for name in ORDERS]
