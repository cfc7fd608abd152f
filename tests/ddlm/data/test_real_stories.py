"""The stages before training on real TinyStories, where there are some."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ddlm.artifacts import Artifact, ArtifactStore
from ddlm.data.corpus import read_stories
from ddlm.data.shards import read_rows
from ddlm.experiment import load_experiment
from ddlm.experiment.stages import Session, run_plainly
from ddlm.tokenizer import Tokenizer

STORIES = os.environ.get("DDLM_TINYSTORIES", "")
TINY = Path(__file__).parents[3] / "configs" / "tiny.toml"
MOJIBAKE = "â€"

pytestmark = pytest.mark.skipif(not STORIES, reason="DDLM_TINYSTORIES names no folder with real stories")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    experiment = load_experiment(
        TINY, {"corpus.source": STORIES, "tracking.backend": "none", "tokenizer.vocab_size": 2048}
    )
    store = ArtifactStore(tmp_path_factory.mktemp("real") / "artifacts")
    return run_plainly(Session(experiment, store=store), until="shards")


def test_encoding_damage_is_repaired_and_clean_text_is_left_alone(done: dict[str, Artifact]) -> None:
    raw = pq.read_table(Path(STORIES) / "train.parquet").column("text").to_pylist()
    damaged = sum(MOJIBAKE in text for text in raw)
    stories = read_stories(done["corpus"].path, "train")
    assert damaged > 50
    assert sum(MOJIBAKE in text for text in stories) <= damaged // 20
    kept = set(stories)
    plain = [text for text in raw if text.isascii() and text == "\n".join(map(str.rstrip, text.strip().split("\n")))]
    assert all(text in kept for text in plain)


def test_no_story_is_in_both_splits(done: dict[str, Artifact]) -> None:
    train, validation = (set(read_stories(done["corpus"].path, split)) for split in ("train", "validation"))
    assert len(train) > 10_000
    assert len(validation) > 5_000
    assert not train & validation


def test_every_story_comes_back_from_its_tokens_and_every_byte_is_counted(done: dict[str, Artifact]) -> None:
    tokenizer = Tokenizer.load(done["tokenizer"].path)
    stories = read_stories(done["corpus"].path, "validation")
    encoded = tokenizer.encode_batch(stories)
    assert [tokenizer.decode(ids) for ids in encoded] == stories
    rows = read_rows(done["shards"].path, "validation")
    assert int(rows.text_bytes.sum()) == sum(len(text.encode()) for text in stories)
