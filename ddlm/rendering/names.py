"""Names of films and pictures, by which it is decided what is written. Light to import."""

from pathlib import Path

from ddlm.config import UserError, installing

FILMS, STILL = (".gif", ".apng", ".webp", ".mp4"), ".png"


def require_suffix(path: Path, *, sheet: bool = False) -> None:
    """Raises: UserError for a name that says neither film nor picture, and for .mp4 where no ffmpeg is."""
    if sheet and path.suffix != STILL:
        raise UserError(f"output {path}: a contact sheet is one picture; wanted a name ending in .png")
    if path.suffix not in (*FILMS, STILL):
        raise UserError(
            f"output {path}: wanted a name ending in {', '.join(FILMS)} for the film, or {STILL} for its last picture"
        )
    if path.suffix == ".mp4":
        require_ffmpeg(path)


def require_ffmpeg(path: Path) -> None:
    """Raises: UserError where imageio finds none."""
    remedy = f"run {installing('video')}, or take .gif, .apng or .webp, which need none"
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise UserError(f"output {path}: .mp4 wants ffmpeg, which is not here; {remedy}") from None
