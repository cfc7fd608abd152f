"""The page's JavaScript in Node, against what it repeats in Python. No network, no browser."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from ddlm import draws
from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.bound import exact_k_masks
from ddlm.export.runtime import sampler, tokens, unmasking
from ddlm.export.web.site import settings_of
from ddlm.tokenizer import Tokenizer, TokenizerConfig, _train_characters
from tests.ddlm.export.page import in_node, needs_node
from tests.ddlm.export.policies import settings

pytestmark = needs_node
VECTORS = [  # Random123's known answers for philox4x32-10
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((draws.WORD,) * 4, (draws.WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
SEEDS = [0, 1, -1, -6, 2**31, 2**33 + 7, 2**63, 2**64 + 5, -(2**70)]
TEXTS = [
    "", " ", "  ", "\n", "Once upon a time", " a  b   c    ", "it's I'll we've they'd 'tis 'S",
    "3 apples, 12,345.67 and ½", "café naïve e\u0301 ﬁ Ａ", "🙂 🙂🙂 👩\u200d👩\u200d👧 🇩🇪", "你好，世界。我是猫",
    "日本語のテキスト", "مرحبا بالعالم", "हिन्दी", "\t\ttabs\r\n\r\nlines \n  end\n", "___ ___[5]", "a" * 500,
    "\u0085next\u00a0hard\u2028line\u2029\u3000wide\ufeffmark\u200bzero", "<|endoftext|> <|mask|> <|user|>",
    "<script>alert(1)</script>", "Donaudampfschifffahrtsgesellschaftskapitänsmütze", "\x00\x01\x7f", "ǅ Ⅷ ² ٣",
    "!!! ... -- ---", "\ufeffmark first", "x \ufeff",
]  # fmt: skip
END_ID, MASK_ID, LENGTH = 0, 9, 12


def test_draws_are_pythons():
    calls = [("philox", [counter, key]) for counter, key, _ in VECTORS]
    assert in_node(*calls) == [list(expected) for *_, expected in VECTORS]
    places = list(itertools.product(SEEDS, (0, 3), (0, 70), (0, 255, draws.WHOLE_ROW)))
    answers = in_node(*[("words", [str(seed), *address]) for seed, *address in places])
    one = [
        [int(word[0]) for word in draws.words(seed, *(np.array([part]) for part in address))]
        for seed, *address in places
    ]
    assert answers == one
    extremes = [(0, 0, 0), (draws.WORD,) * 3, (1, 64, 63), (12345, 2**31, 2**32 - 65)]
    numbers = [[draws.to_unit(float(a)), draws.pair_to_unit(float(b), float(c))] for a, b, c in extremes]
    assert in_node(*[("units", list(words)) for words in extremes]) == numbers


def data_of(folder: Path, tokenizer: Tokenizer, **settings) -> Path:
    """As much of a page as its tokenizer needs."""
    (folder / "data").mkdir()
    tokenizer.backend.save(str(folder / "data" / "tokenizer.json"))
    (folder / "data" / "settings.json").write_text(json.dumps({"kind": tokenizer.kind, **settings}))
    return folder


def test_the_tokenizer_gives_pythons_ids_and_texts(tmp_path, tokenizer, stories):
    site = data_of(tmp_path, tokenizer)
    texts = TEXTS + stories[:20]
    ids = in_node(*[("encode", text) for text in texts], site=site)
    assert ids == [tokenizer.encode(text) for text in texts]
    assert in_node(*[("decode", one) for one in ids], site=site) == texts


def test_tokens_that_are_no_whole_characters_read_as_in_python(tmp_path, tokenizer):
    site, generator = data_of(tmp_path, tokenizer), np.random.default_rng(3)
    noise = [generator.integers(0, tokenizer.vocab_size + 1, 30).tolist() for _ in range(40)]
    smile = tokenizer.encode("a 🙂 b")
    noise += [smile[:cut] for cut in range(len(smile))] + [smile[cut:] for cut in range(len(smile))]
    texts = [tokenizer.decode(ids) for ids in noise]
    assert in_node(*[("decode", ids) for ids in noise], site=site) == texts
    pieces = in_node(*[("pieces", ids) for ids in noise], site=site)
    assert ["".join(parts) for parts in pieces] == texts
    assert [len(parts) for parts in pieces] == [len(ids) for ids in noise]


def test_characters_are_read_as_in_python_and_strange_ones_named(tmp_path, stories):
    import pyarrow
    from pyarrow import parquet

    for split in ("train", "validation"):
        parquet.write_table(pyarrow.table({"text": [*stories[:3], "🙂 你好"]}), tmp_path / f"{split}.parquet")
    backend = _train_characters(tmp_path, TokenizerConfig(kind="characters"))
    backend.add_special_tokens(["<|mask|>"])
    tokenizer = Tokenizer(backend)
    site = data_of(tmp_path, tokenizer)
    known, strange = in_node(("encode", "One 🙂 day 好"), ("encode", "One Ж day ж"), site=site)
    assert known == tokenizer.encode("One 🙂 day 好")
    assert strange == 'the tokenizer never saw the characters "Жж"; leave them out'
    assert in_node(("decode", known), site=site) == ["One 🙂 day 好"]


def test_half_a_character_is_refused(tmp_path, tokenizer):
    (answer,) = in_node(("encode", "a \ud83d b"), site=data_of(tmp_path, tokenizer))
    assert "half a character" in answer


@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_the_masks_that_compare_fillings_are_numpys(pipeline, size):
    generator = settings_of(pipeline, SamplingConfig())["gap_generator"]
    (masks,) = in_node(("masks", [size, 8, generator]))
    theirs = exact_k_masks(np.random.default_rng((0, 0)), 8, size)
    assert masks == [np.flatnonzero(mask).tolist() for mask in theirs]


class Table:
    """A network from a table, which Node has too: scores tie, and in some rows two tokens do."""

    def __init__(self):
        generator = np.random.default_rng(5)
        self.rows = generator.normal(0, 2, (24, MASK_ID)).astype(np.float32)
        self.rows[::3, 2] = self.rows[::3].max(axis=1)
        self.rows[::4, END_ID] += 2
        self.rows[[5, 7, 10], 3] += np.array([9, 14, 20], np.float32)  # sure, surer, surest
        self.picks = np.stack([generator.choice(generator.integers(0, 24, 4), LENGTH) for _ in range(31)])
        self.calls = 0

    def __call__(self, ids):
        self.calls += 1
        return self.rows[self.picks[int(ids @ np.arange(1, LENGTH + 1)) % len(self.picks)]]

    @property
    def as_json(self):
        return {"rows": self.rows.tolist(), "picks": self.picks.tolist()}


DRAWS = [(0, 0, (), ()), (7, 2, (4,), (7, 9)), (2**40 + 1, 1, (4, END_ID), ()), (-3, 5, (), (3,))]
"""Seed, sample number, forbidden ids, positions that begin a word."""
WORD_STARTS = [False, True, True, False, True, False, True, True, True]


@pytest.mark.parametrize("policy", unmasking.POLICIES)
def test_every_state_of_the_canvas_and_every_call_is_the_bundles(policy):
    asked, wanted = [], []
    for number, (config, draw) in enumerate(zip(settings(policy), itertools.cycle(DRAWS), strict=False)):
        start = [3, number % MASK_ID] + [MASK_ID] * (LENGTH - 2)
        start[6] = 5  # something in the middle stands already
        seed, sample, forbidden, starts = draw
        network = Table()
        ours = tokens.Draw(
            tokens.Sampling(**config.model_dump()), seed, sample, END_ID, MASK_ID, forbidden,
            starts_word=starts, word_starts=np.array(WORD_STARTS),
        )  # fmt: skip
        states = [state.tolist() for state in sampler.denoise(network, start, ours)]
        wanted.append({"states": states, "calls": network.calls})
        asked.append(("denoise", {
            "table": network.as_json, "start": start, "sampling": config.model_dump(), "seed": str(seed),
            "sample": sample, "endId": END_ID, "maskId": MASK_ID, "forbidden": forbidden, "startsWord": starts,
            "wordStarts": WORD_STARTS,
        }))  # fmt: skip
    assert in_node(*asked) == wanted


def test_blanks_that_are_copied_are_gaps_with_spaces_around_them():
    copied = {
        "It was█ and": "It was ___ and", "█": "___", "██ said.": "___ said.", "a █ █ █ b": "a ___ b", "no█.": "no ___.",
        "Once█████upon": "Once ___ upon", "a\n█ b": "a\n___ b", "whole": "whole", "": "",
    }  # fmt: skip
    assert in_node(*[("copied", text) for text in copied]) == list(copied.values())


def test_the_page_knows_the_policies_and_settings_of_the_bundle():
    (known,) = in_node(("policies", None))
    assert known == {"policies": list(unmasking.POLICIES), "rewriting": sorted(unmasking.REWRITING)}
