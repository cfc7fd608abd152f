"""What the training benchmarks share: their options, and one measure for every model.

The measure is the likelihood bound on the first validation stories, in bits per byte of their text. Rows are made by
the model's own tokenizer, length and layout. A story longer than a row goes on in further rows, each scored by itself:
every model pays for every byte of the same text, and one with short rows pays for the context that it can't see.
`--story-bytes` leaves long stories out.
"""

import argparse
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ddlm.config import parse_override
from ddlm.data import ShardsConfig
from ddlm.data.corpus import read_stories
from ddlm.data.packing import LAYOUTS, Encoder, Rows
from ddlm.diffusion.view import Denoiser
from ddlm.evaluation.likelihood import bound
from ddlm.evaluation.sweep import Sweep
from ddlm.tokenizer import Tokenizer
from ddlm.tracking.provenance import origin

MASK_SEED = 0
"""The same for every run: what differs between two of them is not the evaluation's luck."""


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quick.toml", help="a TOML file of an experiment")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="overrides, such as corpus.source=PATH",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--stories", type=int, default=128, help="validation stories to score")
    parser.add_argument("--story-bytes", type=int, help="score only stories of at most so many bytes")
    parser.add_argument("--masks", type=int, default=8, help="masks a row while scoring; even")
    parser.add_argument("--home", type=Path, help="keeps corpus, tokenizer and shards; a temporary folder if absent")
    return parser


def overrides_of(texts: Sequence[str]) -> dict[str, Any]:
    """Of the stories bundled with ddlm, unless corpus.source says otherwise."""
    return {"corpus.source": "sample", **dict(map(parse_override, texts))}


@contextmanager
def state_folder(home: Path | None) -> Iterator[Path]:
    """`home`, or a temporary folder; all of ddlm's state goes there."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = (home or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["DDLM_HOME"] = str(folder)
        yield folder


def choose_stories(corpus: Path, count: int, most_bytes: int | None) -> list[str]:
    """The first `count` validation stories, those over `most_bytes` bytes passed over."""
    stories = read_stories(corpus, "validation")
    return [story for story in stories if most_bytes is None or len(story.encode()) <= most_bytes][:count]


def digest_of_stories(stories: Sequence[str]) -> str:
    """Figures may be compared where this is the same."""
    return hashlib.sha256("\0".join(stories).encode()).hexdigest()[:16]


def score(
    denoiser: Denoiser,
    stories: Sequence[str],
    tokenizer: Tokenizer,
    shards: ShardsConfig,
    *,
    masks_per_row: int,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """The bound with its Monte-Carlo standard error; rows above stories say how many were continued."""
    encoded = Encoder(tokenizer)(stories)
    rows = Rows.join(list(LAYOUTS[shards.layout]([encoded], shards.seq_len, tokenizer.end_id)))
    masks: Any = {"mask_id": tokenizer.mask_id, "masks_per_row": masks_per_row, "seed": MASK_SEED}
    value = bound(denoiser, rows, **masks, sweep=Sweep(device=torch.device(device)))
    return {
        "bits_per_byte": value.bits_per_byte,
        "bits_per_byte_stderr": value.nll_nats_stderr * value.bits_per_byte / value.nll_nats,
        "nll_nats": value.nll_nats,
        "masked_accuracy": value.accuracy,
        "stories": len(stories),
        "rows": len(rows),
        "text_bytes": int(rows.text_bytes.sum()),
        "stories_digest": digest_of_stories(stories),
        "masks_per_row": masks_per_row,
    }


def provenance() -> dict[str, Any]:
    return {"torch": torch.__version__, "commit": origin().get("git.commit"), "dirty": origin().get("git.dirty")}
