"""What evaluation reads besides its inputs. Imports nothing heavy."""

from pathlib import Path

from ddlm.artifacts import digest_of, sha256_file
from ddlm.config import UserError
from ddlm.diffusion import SamplingConfig
from ddlm.evaluation import EvaluationConfig
from ddlm.model.source import find_fetched


def resolve(sampling: SamplingConfig, evaluation: EvaluationConfig) -> dict[str, str]:
    """Digests of the judge, the twin and the pairs, where they are files; a hub id stands for itself.

    Raises: UserError for pairs that are not there.
    """
    del sampling
    if evaluation.pairs and not Path(evaluation.pairs).exists():
        raise UserError(f"evaluation.pairs {evaluation.pairs}: no such file or folder; give jsonl in BLiMP's format")
    given = {"judge": evaluation.judge, "twin": evaluation.twin, "pairs": evaluation.pairs}
    return {name: _digest(value, is_model=name == "twin") for name, value in given.items() if value}


def _digest(name: str, *, is_model: bool) -> str:
    """Of the file, the folder or the MODEL of this name; else the name itself."""
    path = (find_fetched(name) if is_model else None) or Path(name)
    if path.is_file():
        return sha256_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
    return digest_of({str(file.relative_to(path)): sha256_file(file) for file in files}) if files else name
