"""How the page looks: at home with the paper of our films, in light and dark."""

from pathlib import Path

from gradio.themes import Base

from ddlm.export.web.site import PAGE
from ddlm.rendering.page import SURENESS
from ddlm.rendering.theme import Colour, mix, ramp
from ddlm.ui.sheet import SHADES

FOLDER = Path(__file__).parent
COPYING = PAGE / "copying.js"
SANS = ("system-ui", "-apple-system", "Segoe UI", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace")
"""The visitor's own: nothing is fetched."""
WHITE: Colour = (255, 255, 255)
LIGHTENED = 0.4
"""How far the films' colours go towards white on a dark page."""


def theme() -> Base:
    """Gradio's plainest. Its other colours are set by the style sheet."""
    return Base(font=SANS, font_mono=MONO)


def style() -> str:
    """The style sheet, and before it the colours that say how sure the model was."""
    shades = [ramp(SURENESS, shade / (SHADES - 1)) for shade in range(SHADES)]
    dark = [mix(shade, WHITE, LIGHTENED) for shade in shades]
    return f":root{{{variables(shades)}}}\n.dark{{{variables(dark)}}}\n" + (FOLDER / "style.css").read_text("utf-8")


def variables(shades: list[Colour]) -> str:
    return "".join(f"--sure-{number}:rgb{shade};" for number, shade in enumerate(shades))


def script() -> str:
    files = (path.read_text("utf-8") for path in (COPYING, FOLDER / "page.js"))
    return "".join(['<script type="module">', *files, "</script>"])
