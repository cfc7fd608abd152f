"""Which folder MODEL means. Light to import: what is not there is said before anybody waits for torch."""

import json
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError

from ddlm.config import Unreachable, UserError, home, shortened
from ddlm.model import registered

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FILES = (CONFIG, WEIGHTS, "tokenizer.json", "tokenizer_config.json")
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
PATIENCE_S = 10.0
WITHIN = ("model", "*", "artifacts/*")
"""Where a folder that is no model folder may hold one: an experiment's view, and what MLflow hands out."""


def find_folder(name: str | Path) -> Path:
    """The folder that MODEL means: a path, an experiment, a registered model or, with a slash in it, a hub id.

    In this order. Raises: UserError when it means nothing. Unreachable when the hub does not answer, Unavailable when
    MLflow does not.
    """
    if not str(name).strip():
        raise UserError(f"model {str(name)!r}: wanted a folder, an experiment's name or a hub id; {_known()}")
    found = find_fetched(name)
    if found:
        return found
    if isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name)
    raise UserError(f"model {shortened(str(name))}: no such folder or experiment; {_known()}")


def find_fetched(name: str | Path) -> Path | None:
    """The same of a name that is no hub id. Raises: UserError, and Unavailable, for a registered one."""
    found = find_here(name)
    if found is None and (version := registered.find(str(name))):
        return registered.fetch(version.registry, version.version)
    return found


def find_here(name: str | Path) -> Path | None:
    """The folder on this machine that MODEL means, if it is a path or an experiment."""
    path = Path(name).expanduser()
    last = home() / str(name) / "model"
    found = _model_in(path) or (last if (last / CONFIG).is_file() else None)
    return found or (path if path.is_dir() else None)  # of which require_files says what is missing


def require_files(folder: Path) -> None:
    """Raises: UserError when one of a model folder's files is missing."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES]
        hint = f"{pickles[0]} is a pickle, which ddlm never loads: convert it to {WEIGHTS}" if pickles else ""
        raise UserError(f"model {folder}: {', '.join(missing)} missing; {hint or 'copy the whole folder again'}")


def _model_in(path: Path) -> Path | None:
    """The folder itself, or the only model folder in it."""
    if (path / CONFIG).is_file():
        return path
    for pattern in WITHIN:
        found = [config.parent for config in sorted(path.glob(f"{pattern}/{CONFIG}")) if _is_ours(config)]
        if len(found) == 1:
            return found[0]
    return None


def _is_ours(config: Path) -> bool:
    try:
        document = json.loads(config.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("model_type") == "ddlm"


def _known() -> str:
    names = sorted({folder.parent.name for folder in home().glob("[!.]*/model")})
    return f"finished ones: {', '.join(names) or 'none, start with ddlm run'}"


def _from_hub(repo_id: str) -> Path:
    """What it is comes first: weights of another kind are not fetched to be refused."""
    try:
        HfApi().model_info(repo_id, timeout=PATIENCE_S)  # a download would ask a hub that is away six times
        if not _is_ours(Path(hf_hub_download(repo_id, CONFIG))):
            raise UserError(
                f"model {repo_id}: the hub has it, but it is none of ddlm's; name a model that ddlm has made"
            )
        return Path(snapshot_download(repo_id, allow_patterns=list(FILES)))
    except UserError:
        raise
    except (RepositoryNotFoundError, ValueError) as error:
        raise UserError(
            f"model {repo_id}: no folder here, and the hub does not give it ({type(error).__name__}); check the name, "
            f"or set HF_TOKEN where it is private; {_known()}"
        ) from None
    except (HTTPError, OSError) as error:  # what it does not have is a RepositoryNotFoundError
        remedy = f"check the name and the network; {_known()}"
        raise Unreachable(
            f"model {repo_id}: no folder here, and no word of the hub ({_line(error)}); {remedy}"
        ) from None


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
