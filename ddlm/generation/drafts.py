"""Texts before they are written: prompts, gaps and chats as tokens with masks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ddlm.config import UserError, shortened
from ddlm.tokenizer import Tokenizer

GAP = re.compile(r"_{3,}(?:\[(\d+)\])?")
"""A line of any length, as forms on paper have it; one or two underscores are underscores."""
GAP_LENGTHS = (1, 2, 3, 4, 6, 8)
"""Tokens that are tried for a gap of unknown length."""


@dataclass(frozen=True)
class Draft:
    """One text to write.

    tokens: what stands already, masks in its gaps. to_write: how many more to write after them; None lets the model end
    the text within one canvas. is_closed: nothing follows after the tokens but the end. hidden, hidden_behind: tokens
    at the beginning and the end that are not shown, the tags of a chat. word_starts: places whose token begins a
    word.
    number: the sample number, which with the seed fixes the text.
    """

    tokens: tuple[int, ...]
    prompt: str
    number: int
    hidden: int = 0
    to_write: int | None = None
    is_closed: bool = False
    hidden_behind: int = 0
    word_starts: tuple[int, ...] = ()


def prompted(tokenizer: Tokenizer, prompt: str, number: int, *, seq_len: int, length: int | None) -> Draft:
    """A text that begins with the prompt; in a chat model, as its reply to the request that it was trained on.

    Raises: UserError when the prompt fills the canvas and no length is given, or the length is below 1.
    """
    if length is not None and length < 1:
        raise UserError(f"length {length}: wanted at least 1 token; give more, or none and the model decides")
    begun, is_ended = before_a_word(tokenizer, prompt)
    tokens = tokenizer.encode(begun)
    if length is None and len(tokenizer.story_prefix) + len(tokens) >= seq_len:
        raise UserError(
            f"prompt: {len(tokens)} tokens, but the model writes {seq_len} in all; shorten it to at most "
            f"{seq_len - 1 - len(tokenizer.story_prefix)} tokens, or give --length, how many to write after its end"
        )
    given = (*tokenizer.story_prefix, *tokens)
    word_starts = (len(given),) if is_ended else ()
    return Draft(given, prompt, number, hidden=len(tokenizer.story_prefix), to_write=length, word_starts=word_starts)


def before_a_word(tokenizer: Tokenizer, text: str) -> tuple[str, bool]:
    """The text without its last space, and whether it had one: a token of a byte-level BPE carries the space before its
    word, so a space that is given ahead of it would be followed by another one, or by a piece of a word."""
    is_ended = tokenizer.kind == "bpe" and text.endswith(" ")
    return (text[:-1] if is_ended else text), is_ended


def in_conversation(tokenizer: Tokenizer, turns: Sequence[tuple[str, str]], number: int, *, seq_len: int) -> Draft:
    """A reply to the last of some turns, (role, text) each; the oldest turns go when there are too many.

    Raises: UserError when the model knows no chat, nobody has spoken, or the last turn alone leaves no room.
    """
    if not turns:
        raise UserError("chat: got no turns; give at least one of the user's")
    kept = list(turns)
    while len(tokens := tokenizer.encode_chat(kept)) > seq_len // 2 and len(kept) > 1 + (kept[0][0] == "system"):
        del kept[kept[0][0] == "system"]
    if len(tokens) >= seq_len:
        raise UserError(f"message: {len(tokens)} tokens, but the model takes {seq_len} in all; shorten it")
    return Draft(tuple(tokens), turns[-1][1], number, hidden=len(tokens))


def gapped(tokenizer: Tokenizer, text: str, number: int, *, seq_len: int) -> list[Draft]:
    """The text with masks in its gaps; with gaps of unknown length several drafts, each with other lengths.

    Every unknown gap has every length of `GAP_LENGTHS` in one of the drafts. Raises: UserError when there is no gap, or
    the text is longer than the model.
    """
    gaps = list(GAP.finditer(text))
    if not gaps:
        raise UserError(f"infill: no gap in {text!r}; mark gaps with ___, or ___[5] for five tokens")
    for gap in gaps:
        number_of_tokens = gap.group(1) or "1"
        if len(number_of_tokens) > 6 or not 1 <= int(number_of_tokens) < seq_len:
            said = shortened(gap.group())
            raise UserError(f"infill: a gap {said}; wanted ___[1] to ___[{seq_len - 1}], what the model holds")
    if foul := re.search(r"_{3,}\[(?!\d+\])[^\]\s]{0,20}\]", text):
        raise UserError(f"infill: a gap {foul.group()}; wanted a number of tokens, as in ___[5], or ___ alone")
    unknown = any(gap.group(1) is None for gap in gaps)
    drafts = [_with_gaps(tokenizer, text, number, turn) for turn in range(len(GAP_LENGTHS) if unknown else 1)]
    fitting = [draft for draft in drafts if len(draft.tokens) < seq_len]
    if not fitting:
        shortest = min(len(draft.tokens) for draft in drafts)
        raise UserError(f"infill: {shortest + 1} tokens with gaps, but the model takes {seq_len}; shorten the text")
    return fitting


def _with_gaps(tokenizer: Tokenizer, text: str, number: int, turn: int) -> Draft:
    tokens, word_starts = list(tokenizer.story_prefix), []
    position = 0
    for index, gap in enumerate(GAP.finditer(text)):
        before, is_ended = before_a_word(tokenizer, text[position : gap.start()])
        tokens += tokenizer.encode(before)
        word_starts += [len(tokens)] if is_ended else []
        length = int(gap.group(1)) if gap.group(1) else GAP_LENGTHS[(turn + index) % len(GAP_LENGTHS)]
        tokens += [tokenizer.mask_id] * length
        position = gap.end()
    tokens += [*tokenizer.encode(text[position:]), *tokenizer.story_suffix]
    return Draft(
        tuple(tokens), text, number, hidden=len(tokenizer.story_prefix), hidden_behind=len(tokenizer.story_suffix),
        is_closed=True, word_starts=tuple(word_starts),
    )  # fmt: skip
