"""Which files of a folder hold stories, and of which split: by the names that people give them."""

import re
from dataclasses import dataclass
from pathlib import Path

from ddlm.config import UserError

KINDS = (".parquet", ".jsonl", ".txt")
"""By a file's ending, in whatever case."""
NO_STORIES = {"changelog", "citation", "licence", "license", "notice", "provenance", "readme", "requirements"}
"""Files that lie beside stories and hold none, by the first word of their names."""
SYNONYMS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev", "eval", "evaluation"},
    "test": {"test", "testing"},
}
"""What a word of a file's or a folder's name says; other words say nothing."""


@dataclass(frozen=True)
class Splits:
    """The files of a source by split.

    left_out: files with stories that belong to neither, where a split is named; and those in folders within, where
        there are files above them.
    """

    train: list[Path]
    validation: list[Path]
    left_out: list[Path]

    def named(self) -> dict[str, list[Path]]:
        """`train`, and `validation` where there is one."""
        return {"train": self.train} | ({"validation": self.validation} if self.validation else {})

    def describe(self, root: Path) -> str:
        """One line for whoever wonders what was taken for what."""
        parts = {"train": self.train, "validation": self.validation, "left out": self.left_out}
        return "; ".join(f"{part}: {_names(paths, root)}" for part, paths in parts.items() if paths)


def story_files(path: Path) -> list[Path]:
    """The file itself; a folder's files or, where it has none, those of the folders in it.

    Hidden files, and what is called like a licence or a README, hold no stories.
    Raises: UserError when there are none.
    """
    found = [path] if path.is_file() else _readable(path, "*") or _readable(path, "**/*")
    if not found or found[0].suffix.lower() not in KINDS:
        raise UserError(f"corpus.source {path}: no {', '.join(KINDS)} file there; convert the text to one of them")
    return found


def split_files(path: Path, train: str = "train", validation: str = "validation") -> Splits:
    """Files by split. train, validation: names of splits as the configuration has them.

    Without a name that says so, a file is trained on; a test split validates where there is no other.
    """
    files = story_files(path)
    if path.is_file():
        return Splits(files, [], [])
    within = [file for file in _readable(path, "*/*") if file not in files]
    of = {file: split_of(file.relative_to(path), train, validation) for file in files}
    group = {split: [file for file in files if of[file] == split] for split in (*SYNONYMS, None)}
    held_out = group["validation"] or group["test"]
    chosen = group["train"] or group[None]
    if not chosen:  # a folder of one split alone
        return Splits(files, [], within)
    left_out = [file for file in files if file not in (*chosen, *held_out)]
    return Splits(chosen, held_out, left_out + within)


def split_of(file: Path, train: str, validation: str) -> str | None:
    """`train`, `validation` or `test` by the configured names, else by the last telling word of the path."""
    for split, name in (("train", train), ("validation", validation)):
        if re.fullmatch(rf"{re.escape(name)}(\W.*|_.*)?", file.stem, re.IGNORECASE):
            return split
    words = re.findall(r"[a-z]+", " ".join(file.with_suffix("").parts).lower())
    said = (split for word in reversed(words) for split, synonyms in SYNONYMS.items() if word in synonyms)
    return next(said, None)


def _readable(root: Path, pattern: str) -> list[Path]:
    found = (path for path in root.glob(pattern) if path.suffix.lower() in KINDS and path.is_file())
    return sorted(path for path in found if _has_stories(path.relative_to(root)))


def _has_stories(path: Path) -> bool:
    first_word = re.sub(r"[^a-z].*", "", path.name.lower())
    return first_word not in NO_STORIES and not any(part.startswith(".") for part in path.parts)


def _names(paths: list[Path], root: Path, most: int = 4) -> str:
    shown = [str(path.relative_to(root)) for path in paths[:most]]
    return ", ".join(shown) + (f" and {len(paths) - most} more" if len(paths) > most else "")
