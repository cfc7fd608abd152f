"""Which public stories are the real ones behind this project's figures?

Figures on real stories were measured on 13,566 training and 5,974 validation stories of TinyStories. The stories
themselves are not in this repository; `tinystories/train.txt` and `tinystories/validation.txt` name them, in order, by
the digest of their normalised text (`digest`). This script picks them out of copies of the public files and writes the
folder that `corpus.source` and DDLM_TINYSTORIES take.

SOURCE is what `corpus.source` takes: a file or folder of parquet, jsonl or txt, or a hub dataset id. The stories are
from both generations of the data set, so give both, for example the hub's `roneneldan/TinyStories` and its files
TinyStoriesV2-GPT4-train.txt and TinyStoriesV2-GPT4-valid.txt, downloaded. Not yet tried on the hub itself: it was
tested on local copies.

    python benchmarks/select_stories.py --out tinystories roneneldan/TinyStories \\
        TinyStoriesV2-GPT4-train.txt TinyStoriesV2-GPT4-valid.txt

It prints, a split a line, the number of stories found, and whether what they become in the corpus stage is byte for
byte the text behind the published figures. `--list FOLDER` prints the digests of a folder's stories instead: how the
lists were made.
"""

import argparse
import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from ddlm.config import UserError
from ddlm.data import CorpusConfig
from ddlm.data.corpus import clean
from ddlm.data.sources import open_splits, resolve
from ddlm.evaluation.scores import data_digest

LISTS = Path(__file__).parent / "tinystories"
SPLITS = ("train", "validation")
DIGEST_LENGTH = 12
"""Hex digits: among the 5 million public stories 0.0004 wrong matches are to be expected."""


def digest(text: str) -> str:
    """Of the cleaned text in lower case, runs of white space as one blank: the same for every copy's line breaks."""
    normalised = re.sub(r"\s+", " ", clean(text)).strip().lower()
    return hashlib.sha256(normalised.encode()).hexdigest()[:DIGEST_LENGTH]


def read_list(split: str) -> tuple[str, list[str]]:
    """The digest of the whole split's cleaned text (its first line), and the stories' digests in order."""
    whole, *stories = (LISTS / f"{split}.txt").read_text().split()
    return whole, stories


def stories_of(source: str) -> Iterator[str]:
    """Every text of a file, a folder or a hub data set. Raises: UserError where it can't be read."""
    config = CorpusConfig(source=source)
    rows = chain.from_iterable(open_splits(config, resolve(config)).values())
    return (row for row in rows if isinstance(row, str))


def select(stories: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """By digest, the first of the stories that has it."""
    left, found = set(wanted), {}
    for text in stories:
        name = digest(text)
        if name in left:
            left.remove(name)
            found[name] = text
    return found


def write_split(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"text": pa.array(texts, pa.string())}), path, compression="zstd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="SOURCE")
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    parser.add_argument("--list", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    try:
        if args.list:
            make_lists(args.list)
        elif args.sources and args.out:
            make_folder(args.sources, args.out)
        else:
            parser.error("give SOURCE and --out FOLDER, or --list FOLDER")
    except UserError as error:
        parser.error(str(error))


def make_lists(folder: Path) -> None:
    for split in SPLITS:
        texts = list(stories_of(str(folder / f"{split}.parquet")))
        lines = [data_digest([clean(text) for text in texts]), *map(digest, texts)]
        LISTS.mkdir(exist_ok=True)
        (LISTS / f"{split}.txt").write_text("\n".join(lines) + "\n")


def make_folder(sources: list[str], out: Path) -> None:
    lists = {split: read_list(split) for split in SPLITS}
    wanted = chain.from_iterable(stories for _, stories in lists.values())
    found = select(chain.from_iterable(map(stories_of, sources)), wanted)
    for split, (whole, stories) in lists.items():
        texts = [found[name] for name in stories if name in found]
        write_split(out / f"{split}.parquet", texts)
        is_same = data_digest([clean(text) for text in texts]) == whole
        verdict = "the very text behind the published figures" if is_same else "not the text behind the figures"
        print(f"{split}: {len(texts):,} of {len(stories):,} stories found; {verdict}")


if __name__ == "__main__":
    main()
