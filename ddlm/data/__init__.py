"""Text in, token rows out: corpus, shards, loader."""

from typing import Literal

from pydantic import Field

from ddlm.config import EXECUTION_ONLY, LocalPath, Section


class CorpusConfig(Section):
    """`[corpus]`: where the stories come from."""

    source: LocalPath = "roneneldan/TinyStories"
    """`sample` (the bundled stories), a local file or folder, or a hub dataset id."""
    revision: str | None = None
    """Pins a commit of the hub dataset."""
    name: str | None = None
    """The hub dataset's configuration, where it has several."""
    text_field: str = "text"
    train_split: str = "train"
    """A split of the source, with a slice if wanted: `train[:50000]`."""
    validation_split: str = "validation"
    validation_fraction: float = Field(default=0.05, gt=0, lt=1)
    """The part held out where the source has no validation split; a story goes by the hash of its text."""
    offline: Literal["error", "sample"] = "error"
    """When the hub can't be reached: fail, or warn loudly and take the bundled sample."""
    hub_timeout_s: float = Field(default=20.0, gt=0, le=86400, json_schema_extra=EXECUTION_ONLY)


class ShardsConfig(Section):
    """`[shards]`: rows of token ids."""

    seq_len: int = Field(default=256, ge=8, le=8192)
    layout: Literal["story", "packed"] = "story"
    """`story`: one story a row, its tail filled with end tokens. `packed`: one continuous stream."""
    rows_per_shard: int = Field(default=65536, ge=1, le=2**24)
    workers: int | None = Field(default=None, ge=1, le=2**12, json_schema_extra=EXECUTION_ONLY)
    """Threads that encode; every core when absent."""
