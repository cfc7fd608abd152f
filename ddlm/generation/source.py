"""Which folder MODEL means."""

from pathlib import Path

from huggingface_hub import snapshot_download

from ddlm.config import UserError, home


def find_folder(name: str | Path) -> Path:
    """The folder that MODEL means. Raises: UserError when it means nothing."""
    path = Path(name)
    if path.is_dir():
        return path
    last = home() / str(name) / "model"
    if last.is_dir():
        return last
    if isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name)
    known = ", ".join(sorted(folder.parent.name for folder in home().glob("[!.]*/model")))
    raise UserError(
        f"model {name}: no such folder or experiment; finished ones: {known or 'none, start with ddlm run'}"
    )


def _from_hub(repo_id: str) -> Path:
    try:
        return Path(snapshot_download(repo_id))
    except (OSError, ValueError) as error:  # the hub library's connection and repository errors are OSErrors
        reason = str(error).splitlines()[0]
        raise UserError(f"model {repo_id}: no folder, and the hub said {reason}; check name and network") from None
