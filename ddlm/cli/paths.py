"""Paths as they are typed, and what is known of them before anything is computed."""

from pathlib import Path
from tempfile import TemporaryFile

from ddlm.config import UserError


def expanded(path: Path | None) -> Path | None:
    """With the home folder for `~`, which the shell leaves alone in `--data=~/x`. A callback of options."""
    return path.expanduser() if path else path


def require_readable(option: str, path: Path) -> None:
    """Raises: UserError where no file and no folder is."""
    if not path.exists():
        raise UserError(f"{option} {path}: no such file or folder; give stories as parquet, jsonl or txt")


def require_writable(output: Path, *, parents: bool = False) -> None:
    """Raises: UserError where nothing can be made beside `output`. parents: folders above it are made."""
    try:
        if parents:
            output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise UserError(
            f"output {output}: can't be written ({error.strerror}); give a path in a folder of yours"
        ) from None


def make_folder(output: Path) -> None:
    """Raises: UserError where a file is in the way, or nothing can be written."""
    require_writable(output, parents=True)
    if output.exists() and not output.is_dir():
        raise UserError(f"output {output}: is a file; give a folder")
    output.mkdir(exist_ok=True)
    require_writable(output / "report.html")
