"""Pictures of denoising: frames, themes, GIFs, plots."""

from pydantic import Field, field_validator

from ddlm.config import Section, UserError

THEME_NAMES = ("paper", "terminal", "neon")
"""paper: ours. terminal and neon: the plain and the neon screen of S0."""


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
    """Pixels; smaller where the text would not fit."""
    frame_ms: int = Field(default=80, ge=20, le=10_000, multiple_of=10)
    """A GIF counts in 10 ms; players slow anything below 20 ms down."""
    hold_s: float = Field(default=2.0, ge=0, le=600)
    """How long the finished text stays."""

    _theme_exists = field_validator("theme")(require_theme)
