"""Stories as rows of `seq_len` token ids: the two layouts, vectorised. No files here."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ddlm.tokenizer import Tokenizer

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Rows of token ids and what text they hold.

    tokens: int32 (n, seq_len). text_bytes: UTF-8 bytes of story text in each row; their sum is the stories' bytes.
    text_tokens: tokens in each row that are not filling: those of the stories and the end token after each story.
    """

    tokens: NDArray[np.int32]
    text_bytes: Ints
    text_tokens: Ints

    @classmethod
    def join(cls, parts: Sequence["Rows"]) -> "Rows":
        if len(parts) == 1:
            return parts[0]
        names = ("tokens", "text_bytes", "text_tokens")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> "Rows":
        return Rows(self.tokens[rows], self.text_bytes[rows], self.text_tokens[rows])


@dataclass(frozen=True)
class Encoded:
    """A batch of stories, one after the other: token ids, the text bytes that each token stands for, story lengths."""

    tokens: NDArray[np.int32]
    token_bytes: Ints
    lengths: Ints


class Encoder:
    """A tokenizer with its table of bytes a token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.token_bytes = np.array(tokenizer.token_bytes(), dtype=np.int64)

    def __call__(self, stories: Sequence[str]) -> Encoded:
        """Raises: UserError for characters outside a closed alphabet."""
        lists = self.tokenizer.encode_stories(stories)
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        tokens = np.fromiter(chain.from_iterable(lists), np.int32, int(lengths.sum()))
        token_bytes = self.token_bytes[tokens]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        for offset in range(len(self.tokenizer.story_prefix)):
            token_bytes[starts + offset] = 0
        for offset in range(len(self.tokenizer.story_suffix)):
            token_bytes[ends - 1 - offset] = 0
        story_bytes = np.fromiter((len(story.encode()) for story in stories), np.int64, len(lists))
        # What the unknown token stands for is in no table: the story's last token carries the difference.
        token_bytes[ends - 1] += story_bytes - np.add.reduceat(token_bytes, starts)
        return Encoded(tokens, token_bytes, lengths)


def one_story_a_row(batches: Iterable[Encoded], seq_len: int, end_id: int) -> Iterator[Rows]:
    """Each story begins a row; end tokens fill the rest. A longer story goes on in the next rows."""
    for batch in batches:
        rows_before = np.cumsum(-(-batch.lengths // seq_len))
        first_rows = np.concatenate([[0], rows_before[:-1]])
        starts = np.cumsum(batch.lengths) - batch.lengths
        place = np.arange(len(batch.tokens)) + np.repeat(first_rows * seq_len - starts, batch.lengths)
        rows = _place(batch.tokens, batch.token_bytes, place, int(rows_before[-1]), seq_len, end_id)
        has_end = rows.text_tokens < seq_len
        yield Rows(rows.tokens, rows.text_bytes, rows.text_tokens + has_end)


def one_stream(batches: Iterable[Encoded], seq_len: int, end_id: int) -> Iterator[Rows]:
    """Stories one after the other with an end token after each, cut every `seq_len`; end tokens fill the last row."""
    tokens, token_bytes = np.empty(0, np.int32), np.empty(0, np.int64)
    for batch in batches:
        ends = np.cumsum(batch.lengths)
        tokens = np.concatenate([tokens, np.insert(batch.tokens, ends, end_id)])
        token_bytes = np.concatenate([token_bytes, np.insert(batch.token_bytes, ends, 0)])
        whole = len(tokens) // seq_len * seq_len
        yield _place(tokens[:whole], token_bytes[:whole], np.arange(whole), whole // seq_len, seq_len, end_id)
        tokens, token_bytes = tokens[whole:], token_bytes[whole:]
    if len(tokens):
        yield _place(tokens, token_bytes, np.arange(len(tokens)), 1, seq_len, end_id)


LAYOUTS = {"story": one_story_a_row, "packed": one_stream}


def _place(tokens: NDArray[np.int32], token_bytes: Ints, place: Ints, num_rows: int, seq_len: int, fill: int) -> Rows:
    canvas = np.full(num_rows * seq_len, fill, np.int32)
    canvas[place] = tokens
    row = place // seq_len
    text_bytes = np.bincount(row, weights=token_bytes, minlength=num_rows).astype(np.int64)
    return Rows(canvas.reshape(num_rows, seq_len), text_bytes, np.bincount(row, minlength=num_rows))
