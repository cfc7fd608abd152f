"""Texts before they are written, and the canvases they are written on. The library's, for one row.

Of a gap without a length several lengths are tried, and the filling is kept that the network finds the least
surprising a token, as the library does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

if __package__:  # inside the library, which ships this file
    from ddlm.export.runtime.contents import Bundle
    from ddlm.export.runtime.options import InputError
    from ddlm.export.runtime.sampler import Network
    from ddlm.export.runtime.tokens import Array, Draw, Sampling, log_total
else:
    from contents import Bundle  # type: ignore[import-not-found,no-redef]
    from options import InputError  # type: ignore[import-not-found,no-redef]
    from sampler import Network  # type: ignore[import-not-found,no-redef]
    from tokens import Array, Draw, Sampling, log_total  # type: ignore[import-not-found,no-redef]

GAP = re.compile(r"_{3,}(?:\[(\d+)\])?")
GAP_LENGTHS = (1, 2, 3, 4, 6, 8)
"""Tokens that are tried for a gap of unknown length."""
GAP_MASKS = 8
"""Masks under which fillings are compared."""
MASK_SIGN = "█"


@dataclass(frozen=True)
class Draft:
    """A text before it is written.

    prompt: as it was given. given: the ids that stand already, hidden ones included, masks in the gaps. to_write: how
    many more to write behind them, exactly; None lets the model end the text within one canvas. is_closed: nothing
    follows but the end. hidden, hidden_behind: ids at the beginning and the end that are not shown, the tags of a chat.
    word_starts: places whose token begins a word.
    """

    prompt: str
    given: list[int]
    hidden: int
    to_write: int | None = None
    is_closed: bool = False
    hidden_behind: int = 0
    word_starts: tuple[int, ...] = ()

    def draw(self, bundle: Bundle, sampling: Sampling, seed: int, sample: int, first_position: int) -> Draw:
        is_open = self.to_write is None and not self.is_closed
        forbidden = bundle.forbidden + (() if is_open else bundle.stop_ids)
        starts = beginnings(bundle) if self.word_starts else None
        places = tuple(place - first_position for place in self.word_starts)
        return Draw(sampling, seed, sample, bundle.end_id, bundle.mask_id, forbidden, first_position, places, starts)

    def shown(self, ids: list[int]) -> list[int]:
        return ids[self.hidden : len(ids) - self.hidden_behind]

    def text(self, bundle: Bundle, ids: list[int]) -> str:
        text = bundle.decode(self.shown(ids))
        is_turn = self.hidden > 0 and not self.is_closed  # the line break before a turn's end is no part of it
        return text[:-1] if is_turn and text.endswith("\n") else text

    def unfinished(self, bundle: Bundle, ids: list[int]) -> str:
        """A text in the making; each masked token is one sign."""
        shown, run = "", list[int]()
        for token in self.shown(until_stop(ids, len(self.given), bundle.stop_ids, bundle.mask_id)):
            if token != bundle.mask_id:
                run.append(token)
                continue
            shown += bundle.decode(run) + MASK_SIGN
            run = []
        return shown + bundle.decode(run)


@dataclass(frozen=True)
class Window:
    """The canvas that goes on with a text, and the ids before it. to_write: masks of a text of known length."""

    before: list[int]
    canvas: list[int]
    to_write: int = 0


def prompted(bundle: Bundle, prompt: str, length: int | None) -> Draft:
    """A text that begins with the prompt. Raises: InputError for a prompt that can't be read or leaves no room."""
    begun, is_ended = before_a_word(bundle, prompt)
    ids = bundle.encode(begun)
    given = [*bundle.prefix, *ids]
    if length is None and len(given) >= bundle.seq_len:
        raise InputError(
            f"prompt: {len(ids)} tokens, but the model writes {bundle.seq_len} in all; shorten it to at most "
            f"{bundle.seq_len - 1 - len(bundle.prefix)} tokens, or give --length, how many to write after its end"
        )
    word_starts = (len(given),) if is_ended else ()
    return Draft(prompt, given, len(bundle.prefix), to_write=length, word_starts=word_starts)


def before_a_word(bundle: Bundle, text: str) -> tuple[str, bool]:
    """The text without its last space, and whether it had one: a token carries the space before its word."""
    is_ended = bundle.tokenizer_kind == "bpe" and text.endswith(" ")
    return (text[:-1] if is_ended else text), is_ended


def gapped(bundle: Bundle, text: str) -> list[Draft]:
    """The text with masks in its gaps; with gaps of unknown length several drafts, each with other lengths.

    Raises: InputError when there is no gap, or the text is longer than the model.
    """
    gaps = list(GAP.finditer(text))
    if not gaps:
        raise InputError(f"infill: no gap in {text[:60]!r}; mark gaps with ___, or ___[5] for five tokens")
    for gap in gaps:
        if gap.group(1) and not (len(gap.group(1)) < 7 and 1 <= int(gap.group(1)) < bundle.seq_len):
            raise InputError(f"infill: a gap {gap.group()[:20]}; wanted ___[1] to ___[{bundle.seq_len - 1}]")
    foul = re.search(r"_{3,}\[(?!\d+\])[^\]\s]{0,20}\]", text)
    if foul:
        raise InputError(f"infill: a gap {foul.group()}; wanted a number of tokens, as in ___[5], or ___ alone")
    is_unknown = any(gap.group(1) is None for gap in gaps)
    drafts = [_with_gaps(bundle, text, turn) for turn in range(len(GAP_LENGTHS) if is_unknown else 1)]
    fitting = [draft for draft in drafts if len(draft.given) < bundle.seq_len]
    if not fitting:
        shortest = min(len(draft.given) for draft in drafts)
        raise InputError(
            f"infill: {shortest + 1} tokens with gaps, but the model takes {bundle.seq_len}; shorten the text"
        )
    return fitting


def _with_gaps(bundle: Bundle, text: str, turn: int) -> Draft:
    given, word_starts, position = list(bundle.prefix), [], 0
    for index, gap in enumerate(GAP.finditer(text)):
        before, is_ended = before_a_word(bundle, text[position : gap.start()])
        given += bundle.encode(before)
        word_starts += [len(given)] if is_ended else []
        length = int(gap.group(1)) if gap.group(1) else GAP_LENGTHS[(turn + index) % len(GAP_LENGTHS)]
        given += [bundle.mask_id] * length
        position = gap.end()
    given += [*bundle.encode(text[position:]), *bundle.suffix]
    return Draft(
        text, given, len(bundle.prefix), is_closed=True, hidden_behind=len(bundle.suffix),
        word_starts=tuple(word_starts),
    )  # fmt: skip


def beginnings(bundle: Bundle) -> Array:
    """bool[v]: ids whose text begins with a space."""
    return np.array([bundle.decode([token]).startswith(" ") for token in range(bundle.mask_id)])


def window_of(bundle: Bundle, draft: Draft, text: list[int], left: int | None) -> Window:
    """The canvas of a text: all of it where it fits, else what fits behind half a canvas of what stands."""
    if left is None:
        filler = bundle.end_id if draft.is_closed else bundle.mask_id
        return Window([], text + [filler] * (bundle.seq_len - len(text)))
    start = 0 if len(text) + left <= bundle.seq_len else max(0, len(text) - bundle.seq_len // 2)
    room = bundle.seq_len - (len(text) - start)
    to_write = min(left, room)
    behind = [bundle.mask_id] * to_write + [bundle.end_id] * (room - to_write)
    return Window(text[:start], text[start:] + behind, to_write)


def finished(bundle: Bundle, draft: Draft, text: list[int], window: Window, canvas: list[int]) -> list[int]:
    """The ids of the text after its window is written. text: those before."""
    ids = window.before + canvas
    if draft.is_closed:
        return ids[: len(draft.given)]
    if window.to_write:
        return ids[: len(text) + window.to_write]
    return until_stop(ids, len(draft.given), bundle.stop_ids, None)


def until_stop(ids: list[int], start: int, stop_ids: tuple[int, ...], mask_id: int | None) -> list[int]:
    """The ids before the first that ends the text, from `start` on, if no mask stands before it."""
    for place in range(start, len(ids)):
        if ids[place] in stop_ids:
            return ids[:place]
        if ids[place] == mask_id:
            return ids
    return ids


def surprise(network: Network, bundle: Bundle, draft: Draft, ids: list[int]) -> float:
    """The bound on a filling's nats a token."""
    canvas = np.array(ids + [bundle.end_id] * (bundle.seq_len - len(ids)), dtype=np.int64)
    is_scored = np.zeros(bundle.seq_len, dtype=bool)
    is_scored[: len(ids)] = np.array(draft.given) == bundle.mask_id
    count = int(is_scored.sum())
    if bundle.is_autoregressive:
        return nats(network(canvas), canvas, is_scored) / count
    estimates = []
    for is_masked in masks_of(is_scored):
        cost = nats(network(np.where(is_masked, bundle.mask_id, canvas)), canvas, is_masked)
        estimates.append(cost * count / int(is_masked.sum()))
    return float(np.mean(estimates)) / count


def nats(logits: Array, ids: Array, wanted: Array) -> float:
    """-log p of the ids at the wanted positions, summed."""
    found = logits[wanted]
    costs = log_total(found)[:, 0] - found[np.arange(len(found)), ids[wanted]]
    return float(costs.astype(np.float64).sum())


def masks_of(is_scored: Array) -> Iterator[Array]:
    """Masks within the scored positions, their sizes stratified over 1 … all of them: the library's for seed 0."""
    rng, count = np.random.default_rng((0, 0)), int(is_scored.sum())
    sizes = np.floor((np.arange(GAP_MASKS) + rng.random(GAP_MASKS)) / GAP_MASKS * count) + 1
    ranks = rng.random((GAP_MASKS, count)).argsort(axis=1).argsort(axis=1)
    for chosen in ranks < sizes[:, None]:
        is_masked = np.zeros_like(is_scored)
        is_masked[is_scored] = chosen
        yield is_masked
