import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ddlm.artifacts import Workspace
from ddlm.config import UserError
from ddlm.data import ShardsConfig
from ddlm.data.corpus import read_stories
from ddlm.data.packing import Encoder
from ddlm.data.shards import build, encode, read_manifest, read_rows, row_dtype
from ddlm.tokenizer import Tokenizer

Pack = Callable[..., Path]
CONFIGS = [
    {},
    {"chat": True},
    {"kind": "characters"},
    {"kind": "characters", "unknown": "replace", "train_stories": 3},
]


@pytest.fixture
def pack(workspace: Callable[..., Workspace], corpus: Path, make_tokenizer: Callable[..., Path]) -> Pack:
    """Builds shards of the small corpus; returns the artifact's folder."""

    def run(tokenizer: dict[str, Any] | None = None, corpus: Path = corpus, **shards: Any) -> Path:
        section = ShardsConfig(**{"seq_len": 32, **shards})
        room = workspace(corpus=corpus, tokenizer=make_tokenizer(**(tokenizer or {})))
        build(room, shards=section)
        return room.output

    return run


def text_bytes(folder: Path, split: str) -> list[int]:
    return [len(story.encode()) for story in read_stories(folder, split)]


def encoded(corpus: Path, tokenizer: Tokenizer, split: str = "train") -> list[list[int]]:
    return [tokenizer.encode_story(story) for story in read_stories(corpus, split)]


class TestStoryLayout:
    def test_each_story_begins_a_row_and_end_tokens_fill_it(
        self, pack: Pack, corpus: Path, tokenizer: Tokenizer
    ) -> None:
        expected = []
        for ids in encoded(corpus, tokenizer):
            for start in range(0, len(ids), 32):
                part = ids[start : start + 32]
                expected.append(part + [tokenizer.end_id] * (32 - len(part)))
        rows = read_rows(pack(), "train")
        assert rows.tokens.tolist() == expected

    def test_text_tokens_count_the_story_and_one_end_token(self, pack: Pack) -> None:
        rows = read_rows(pack(), "train")
        for tokens, count in zip(rows.tokens, rows.text_tokens, strict=True):
            assert 0 not in tokens[: count - 1]
            assert not tokens[count:].any()
            assert count == 32 or tokens[count - 1] == 0

    def test_a_story_that_fills_its_rows_exactly_has_no_row_of_ends(
        self, pack: Pack, corpus: Path, tokenizer: Tokenizer
    ) -> None:
        length = len(encoded(corpus, tokenizer)[0])
        rows = read_rows(pack(seq_len=length), "train", limit=2)
        assert rows.tokens[0].tolist() == encoded(corpus, tokenizer)[0]
        assert rows.text_tokens[0] == length
        assert rows.tokens[1].tolist()[:8] == encoded(corpus, tokenizer)[1][:8]


class TestPackedLayout:
    def test_rows_are_one_stream_with_an_end_token_after_each_story(
        self, pack: Pack, corpus: Path, tokenizer: Tokenizer
    ) -> None:
        stream = [id_ for ids in encoded(corpus, tokenizer) for id_ in [*ids, tokenizer.end_id]]
        rows = read_rows(pack(layout="packed"), "train")
        assert rows.tokens.reshape(-1).tolist() == stream + [0] * (-len(stream) % 32)
        assert rows.text_tokens.sum() == len(stream)
        assert (rows.text_tokens[:-1] == 32).all()

    def test_borders_of_batches_leave_no_trace(self, pack: Pack, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = {layout: read_rows(pack(layout=layout), "train") for layout in ("story", "packed")}
        monkeypatch.setattr("ddlm.data.shards.STORIES_AT_A_TIME", 3)
        for layout, rows in whole.items():
            again = read_rows(pack(layout=layout), "train")
            for name in ("tokens", "text_bytes", "text_tokens"):
                assert np.array_equal(getattr(rows, name), getattr(again, name))


@pytest.mark.parametrize("layout", ["story", "packed"])
@pytest.mark.parametrize("tokenizer", CONFIGS)
def test_text_bytes_of_the_rows_add_up_to_the_text(
    pack: Pack, corpus: Path, layout: str, tokenizer: dict[str, Any]
) -> None:
    folder = pack(tokenizer, layout=layout, seq_len=8)
    for split in ("train", "validation"):
        total = sum(text_bytes(corpus, split))
        assert read_rows(folder, split).text_bytes.sum() == total
        assert read_manifest(folder)["splits"][split]["text_bytes"] == total


def test_each_row_counts_the_bytes_of_its_own_text(pack: Pack, tokenizer: Tokenizer) -> None:
    rows = read_rows(pack(), "train")
    table = np.array(tokenizer.token_bytes())
    assert rows.text_bytes.tolist() == table[rows.tokens].sum(1).tolist()


def test_chat_words_are_no_text(make_tokenizer: Callable[..., Path]) -> None:
    encoder = Encoder(Tokenizer.load(make_tokenizer(chat=True)))
    batch = encoder(["Tom ran.", "é"])
    starts = [0, batch.lengths[0]]
    assert np.add.reduceat(batch.token_bytes, starts).tolist() == [8, 2]
    assert not batch.token_bytes[: len(encoder.tokenizer.story_prefix)].any()


class TestFiles:
    def test_equal_input_gives_equal_bytes(self, pack: Pack) -> None:
        def digests(folder: Path) -> dict[str, str]:
            return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}

        assert digests(pack(rows_per_shard=10)) == digests(pack(rows_per_shard=10, workers=1))

    @pytest.mark.parametrize("group_tokens", [1 << 19, 3 * 32])
    def test_rows_are_spread_over_shards(self, pack: Pack, monkeypatch: pytest.MonkeyPatch, group_tokens: int) -> None:
        monkeypatch.setattr("ddlm.data.shards.TOKENS_PER_ROW_GROUP", group_tokens)
        folder = pack(rows_per_shard=10)
        files = read_manifest(folder)["splits"]["train"]["files"]
        sizes = [parquet.ParquetFile(folder / name).metadata.num_rows for name in files]
        assert files == [f"train-{number:05d}.parquet" for number in range(len(files))]
        assert sizes[:-1] == [10] * (len(files) - 1)
        assert 0 < sizes[-1] <= 10
        assert np.array_equal(read_rows(folder, "train").tokens, read_rows(pack(), "train").tokens)

    def test_tokens_are_fixed_lists_of_the_smallest_unsigned_type(self, pack: Pack) -> None:
        schema = parquet.ParquetFile(pack() / "train-00000.parquet").schema_arrow
        assert schema.field("tokens").type == pa.list_(pa.field("element", pa.uint16()), 32)
        assert schema.field("text_bytes").type == pa.uint32()
        schema = parquet.ParquetFile(pack({"kind": "characters"}) / "train-00000.parquet").schema_arrow
        assert schema.field("tokens").type.value_type == pa.uint8()

    def test_the_type_holds_the_last_id_but_not_the_mask(self) -> None:
        assert [row_dtype(size).name for size in (256, 257, 65536, 65537)] == ["uint8", "uint16", "uint16", "uint32"]

    def test_the_manifest_counts_what_the_rows_hold(self, pack: Pack) -> None:
        folder = pack()
        manifest = json.loads((folder / "rows.json").read_text())
        assert manifest["seq_len"] == 32
        assert (manifest["vocab_size"], manifest["end_id"], manifest["mask_id"]) == (300, 0, 300)
        for split, entry in manifest["splits"].items():
            rows = read_rows(folder, split)
            assert entry["rows"] == len(rows)
            assert entry["tokens"] == rows.tokens.size
            assert entry["text_tokens"] == rows.text_tokens.sum()

    def test_reading_stops_at_the_limit(self, pack: Pack) -> None:
        folder = pack(rows_per_shard=4)
        whole = read_rows(folder, "train")
        for limit in (1, 4, 6):
            assert np.array_equal(read_rows(folder, "train", limit).tokens, whole.tokens[:limit])
        assert whole.tokens.dtype == np.int32


def test_a_character_that_was_never_seen_is_refused_by_name(pack: Pack, write_corpus: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="characters 'λ': the tokenizer never saw them"):
        pack({"kind": "characters"}, corpus=write_corpus(["A λ."]))


def test_encoding_runs_only_a_few_batches_ahead(
    corpus: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that memory does not grow with the corpus."""
    monkeypatch.setattr("ddlm.data.shards.STORIES_AT_A_TIME", 1)
    seen: list[str] = []
    monkeypatch.setattr(Tokenizer, "require_encodable", lambda self, texts: seen.extend(texts))
    batches = encode(corpus / "train.parquet", tokenizer, workers=2)
    next(batches)
    assert 1 <= len(seen) <= 4
    assert len(list(batches)) == len(read_stories(corpus, "train")) - 1


def test_the_environment_is_left_as_it_was(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    pack()
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    pack()
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
