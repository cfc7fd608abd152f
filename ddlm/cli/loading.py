"""The model of a command. What is not there is said at once, and what takes seconds is named while it does."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ddlm.config import UserError

if TYPE_CHECKING:
    from ddlm.generation import DiffusionPipeline

PRECISIONS = ("auto", "float32", "bfloat16")
COMPILE = ("auto", "on", "off")


@contextmanager
def saying(what: str, *, quiet: bool = False) -> Iterator[None]:
    """A line on stderr as long as it takes; none where nobody looks."""
    from ddlm.data.progress import console

    screen = console()
    with screen.status(what) if screen.is_terminal and not quiet else nullcontext():
        yield


def find_model(name: str | Path, *, quiet: bool = False) -> Path:
    """The folder of MODEL, with all its files. Raises: UserError when it is not there or not whole."""
    with saying(f"looking for {name}", quiet=quiet):
        from ddlm.model.source import find_folder, require_files

        folder = find_folder(name)
        require_files(folder)
    return folder


def load(
    name: str | Path, precision: str = "auto", compile: str = "auto", *, device: str = "auto", quiet: bool = False
) -> "DiffusionPipeline":
    """Raises: UserError for an unknown precision, choice or model."""
    require_precision(precision)
    if compile not in COMPILE:
        raise UserError(f"--compile: got {compile!r}, wanted auto, on or off")
    folder = find_model(name, quiet=quiet)
    with saying(f"loading {name}, {size_of(folder)}", quiet=quiet):
        from ddlm.generation import DiffusionPipeline

        return DiffusionPipeline.from_pretrained(folder, device, precision, compile)  # type: ignore[arg-type]


def require_precision(name: str) -> None:
    """Raises: UserError for an unknown one."""
    if name not in PRECISIONS:
        raise UserError(f"--precision: got {name!r}, wanted auto, float32 or bfloat16")


def size_of(folder: Path) -> str:
    """Of the weights, without reading them."""
    from ddlm.model.source import WEIGHTS

    return f"{(folder / WEIGHTS).stat().st_size / 1e6:.1f} MB of weights"
