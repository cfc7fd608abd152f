"""Pictures of denoising: frames become films, stills and contact sheets, in themes."""

from pydantic import Field, field_validator

from ddlm.config import Section, UserError

THEME_NAMES = ("paper", "terminal", "neon", "heat")
"""paper: ours. terminal and neon: the plain and the neon screen of S0. heat: how sure the model was, and when."""


def require_theme(name: str) -> str:
    """Raises: UserError for a name that no theme has."""
    if name not in THEME_NAMES:
        raise UserError(f"unknown theme {name!r}; wanted one of {', '.join(THEME_NAMES)}")
    return name


class RenderingConfig(Section):
    """`[rendering]`."""

    theme: str = "paper"
    prompt: str = ""
    width: int = Field(default=960, ge=320, le=3840)
    height: int = Field(default=600, ge=240, le=2160)
    font_size: int = Field(default=24, ge=8, le=72)
    """Pixels; down to two thirds of it where the text would not fit, and then the text has pages."""
    frame_ms: int = Field(default=80, ge=20, le=10_000, multiple_of=10)
    """A GIF counts in 10 ms; players slow anything below 20 ms down."""
    hold_s: float = Field(default=2.0, ge=0, le=600)
    """How long the finished text stays, and each of its pages."""
    moments: int = Field(default=6, ge=2, le=60)
    """Pictures on the contact sheet, from the first state to the last."""

    _theme_exists = field_validator("theme")(require_theme)
