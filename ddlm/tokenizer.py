"""Text to ids and back: byte-level BPE or characters behind one class, special ids, the chat format.

Ids: the end token, then the chat tags and the unknown token where there are any, then the text's own tokens, and the
mask last of all, so that `mask_id == vocab_size`. A special token's name typed into a text stays plain text.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import tokenizers
from pydantic import Field, model_validator
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from ddlm.artifacts import Workspace
from ddlm.config import LocalPath, Section, UserError

END, UNKNOWN, MASK = "<|endoftext|>", "<|unk|>", "<|mask|>"
SYSTEM, USER, ASSISTANT, END_OF_TURN = CHAT_TAGS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
SPACE_SIGN = "Ġ"
"""How a byte-level vocabulary writes a space."""
CHAT_REQUEST = "Write a short story."
TOKENIZER_FILE = "tokenizer.json"
PRETRAINED_FILES = (TOKENIZER_FILE, "vocab.json", "merges.txt")
PROBE = "  Ça va?\r\n\n“Hi,” e\u0301 \ufb01 \uff21\t3 <|endoftext|> 🙂 "
"""What a lossy tokenizer stumbles over: a leading space, combining marks, ligatures, width forms, a special's name."""


class TokenizerConfig(Section):
    """`[tokenizer]`."""

    kind: Literal["bpe", "characters"] = "bpe"
    vocab_size: int = Field(default=4096, ge=260, le=2**20)
    """What the model can write, special tokens included, the mask not. Characters take what the text has."""
    min_frequency: int = Field(default=2, ge=1)
    unknown: Literal["refuse", "replace"] = "refuse"
    """Characters that the training text never had."""
    chat: bool = False
    """Train on chat-formatted stories and reserve the chat tags."""
    pretrained: LocalPath | None = None
    """A folder with a tokenizer.json or a GPT-2 style vocab.json and merges.txt, taken instead of training one."""
    train_stories: int | None = Field(default=None, ge=1)
    """Stories that the tokenizer is trained on: the first ones; all when absent."""

    @model_validator(mode="after")
    def _only_characters_can_be_unknown(self) -> "TokenizerConfig":
        if self.unknown == "replace" and self.kind == "bpe":
            raise ValueError('unknown "replace" has no effect with kind bpe, which knows every byte; leave it out')
        return self


class Tokenizer:
    """Encodes and decodes. `vocab_size` is what a model's head writes: everything but the mask."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        backend.encode_special_tokens = True  # the file format has no place for it
        self.backend = backend
        self.end_id = self._id(END)
        self.mask_id = self._id(MASK)
        self.vocab_size = self.mask_id
        self.kind: Literal["bpe", "characters"] = "characters" if _is_ours_by_character(backend) else "bpe"
        self.chat: bool = backend.token_to_id(USER) is not None
        self.story_prefix, self.story_suffix = self._chat_format() if self.chat else ([], [])
        added = backend.get_added_tokens_decoder().values()
        self._specials = {token.content for token in added if token.special}
        self._alphabet = self._closed_alphabet()
        self.stop_ids = (self.end_id, self._id(END_OF_TURN)) if self.chat else (self.end_id,)
        self.unwritable_ids = self._unwritable_ids()

    @classmethod
    def load(cls, folder: Path | str) -> "Tokenizer":
        """Raises: UserError when the file is missing or damaged, or lacks our end or mask token."""
        path = Path(folder) / TOKENIZER_FILE
        backend = _read_backend(path)
        missing = [token for token in (END, MASK) if backend.token_to_id(token) is None]
        if missing:
            raise UserError(
                f"tokenizer {path}: has no {' and no '.join(missing)}; take it in with tokenizer.pretrained"
            )
        return cls(backend)

    def save(self, folder: Path | str) -> None:
        """Write what `tokenizers` and transformers' `AutoTokenizer` load, and vocab.json with merges.txt."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / TOKENIZER_FILE))
        self.backend.model.save(str(folder))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END,
            "pad_token": END,
            "mask_token": MASK,
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """Ids of the text, no special token among them (but the unknown one, where it may replace).

        Raises: UserError for characters outside a closed alphabet, or text that is no Unicode.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on every core."""
        self.require_encodable(texts)
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_stories(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of stories as a model is trained on them: in the chat format where the tokenizer has one."""
        stories = self.encode_batch(texts)
        return [self.story_prefix + ids + self.story_suffix for ids in stories] if self.chat else stories

    def encode_story(self, text: str) -> list[int]:
        return self.encode_stories([text])[0]

    def encode_chat(self, turns: Sequence[tuple[str, str]]) -> list[int]:
        """Ids of a conversation up to where the assistant begins to speak. turns: (role, text).

        Raises: UserError when the tokenizer has no chat tags or a role is none of system, user and assistant.
        """
        if not self.chat:
            raise UserError("chat: this model knows no chat tags; train one with tokenizer.chat=true")
        end_of_turn, newline = self._id(END_OF_TURN), self.encode("\n")
        ids: list[int] = []
        for role, text in turns:
            if role not in ROLES:
                raise UserError(f"chat: role {role!r}; wanted one of {', '.join(ROLES)}")
            ids += [self._id(ROLES[role]), *self.encode(f"\n{text}\n")]
            ids += [end_of_turn, *newline] if role == "assistant" else []
        return [*ids, self._id(ASSISTANT), *newline]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; special tokens are dropped."""
        return str(self.backend.decode([int(i) for i in ids], skip_special_tokens=True))

    def token_bytes(self) -> list[int]:
        """UTF-8 bytes of text that each id below `vocab_size` stands for; 0 for special tokens."""
        tokens = [self.backend.id_to_token(i) or "" for i in range(self.vocab_size)]
        texts = tokens if self.kind == "bpe" else [token.encode() for token in tokens]  # byte level: a character a byte
        return [0 if token in self._specials else len(text) for token, text in zip(tokens, texts, strict=True)]

    def word_starts(self) -> list[bool]:
        """For each id below `vocab_size`, whether its text begins with a space."""
        space = SPACE_SIGN if self.kind == "bpe" else " "
        return [(self.backend.id_to_token(i) or "").startswith(space) for i in range(self.vocab_size)]

    def require_encodable(self, texts: Iterable[str]) -> None:
        """Raises: UserError naming the characters that can't be encoded."""
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError:
                raise UserError(f"text {text[:40]!r}: not valid UTF-8; give it in UTF-8") from None
            if self._alphabet is not None and not self._alphabet.issuperset(text):
                unknown = "".join(sorted(set(text) - self._alphabet)[:20])
                raise UserError(
                    f"characters {unknown!r}: the tokenizer never saw them; leave them out, "
                    'or train with tokenizer.unknown="replace" or tokenizer.kind="bpe"'
                )

    def _id(self, token: str) -> int:
        id_ = self.backend.token_to_id(token)
        assert id_ is not None
        return id_

    def _unwritable_ids(self) -> tuple[int, ...]:
        """Special ids that no text may contain: all but those that end one. The mask's is no id of the head's."""
        special = (self.backend.token_to_id(token) for token in self._specials)
        return tuple(sorted(i for i in special if i is not None and i != self.mask_id and i not in self.stop_ids))

    def _closed_alphabet(self) -> frozenset[str] | None:
        if self.kind == "bpe" or self.backend.token_to_id(UNKNOWN) is not None:
            return None
        return frozenset(token for token in self.backend.get_vocab() if len(token) == 1)

    def _chat_format(self) -> tuple[list[int], list[int]]:
        """`<|user|>`, the request, `<|assistant|>` before a story and `<|end|>` after it, each on its own line.

        Source: seed project S0's training format.
        """
        newline, request = [encoding.ids for encoding in self.backend.encode_batch(["\n", f"\n{CHAT_REQUEST}\n"])]
        user, assistant, end = (self._id(tag) for tag in (USER, ASSISTANT, END_OF_TURN))
        return [user, *request, assistant, *newline], [*newline, end, *newline]


def resolve(tokenizer: TokenizerConfig) -> dict[str, Any] | None:
    """The sha256 of a pretrained tokenizer's files. Raises: UserError when there are none."""
    if tokenizer.pretrained is None:
        return None
    folder = Path(tokenizer.pretrained)
    found = {name: folder / name for name in PRETRAINED_FILES if (folder / name).is_file()}
    if not found:
        raise UserError(f"tokenizer.pretrained {folder}: found neither tokenizer.json nor vocab.json and merges.txt")
    return {"files": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}}


def build(workspace: Workspace, *, tokenizer: TokenizerConfig, source: Any) -> None:  # noqa: ARG001  in the key
    """The tokenizer stage: train one on the corpus, or take the pretrained one in."""
    if tokenizer.pretrained is not None:
        backend = take_in(Path(tokenizer.pretrained), chat=tokenizer.chat)
    elif tokenizer.kind == "bpe":
        backend = train_bpe(_texts(workspace.inputs["corpus"], "train", tokenizer.train_stories), tokenizer)
    else:
        backend = _train_characters(workspace.inputs["corpus"], tokenizer)
    backend.add_special_tokens([MASK])
    Tokenizer(backend).save(workspace.output)


def train_bpe(batches: Iterable[list[str]], config: TokenizerConfig) -> tokenizers.Tokenizer:
    """Byte-level BPE without a normaliser, so that every text comes back exactly.

    Raises: UserError when the text has fewer merges than the vocabulary asks for.
    """
    backend = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=_special_tokens(config),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(batches, trainer)
    supported = backend.get_vocab_size()
    if supported < config.vocab_size:
        raise UserError(
            f"tokenizer.vocab_size {config.vocab_size}: the text supports {supported} tokens at "
            f"min_frequency {config.min_frequency}; ask for at most {supported} or give more text"
        )
    return backend


def take_in(folder: Path, *, chat: bool) -> tokenizers.Tokenizer:
    """A pretrained byte-level BPE with its own ids kept; the end token and chat tags are added where they are missing.

    Raises: UserError when it does not give every text back, or when its ids leave no room for the mask after them.
    """
    if (folder / TOKENIZER_FILE).is_file():
        backend = _read_backend(folder / TOKENIZER_FILE)
        backend.no_padding()
        backend.no_truncation()
    else:
        backend = _read_gpt2_pair(folder)
    if not chat and backend.token_to_id(USER) is not None:
        raise UserError(f"tokenizer.pretrained {folder}: has chat tags; set tokenizer.chat=true")
    backend.add_special_tokens([END, *(CHAT_TAGS if chat else ()), MASK])
    backend.encode_special_tokens = True
    ids = backend.get_vocab()
    if sorted(ids.values()) != list(range(len(ids))) or ids[MASK] != len(ids) - 1:
        raise UserError(f"tokenizer.pretrained {folder}: its ids have gaps or {MASK} is not the last; take another one")
    _require_exact(backend, folder)
    return backend


def _require_exact(backend: tokenizers.Tokenizer, folder: Path) -> None:
    if _is_ours_by_character(backend):
        return
    probes = [PROBE, PROBE.strip()]
    encodings = backend.encode_batch(probes, add_special_tokens=False)
    same = backend.decode_batch([encoding.ids for encoding in encodings], skip_special_tokens=True) == probes
    if not same or "ByteLevel" not in str(backend.pre_tokenizer):
        raise UserError(
            f"tokenizer.pretrained {folder}: does not give every text back; wanted byte-level BPE without a normaliser"
        )


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise UserError(f"tokenizer {path}: no such file; give a folder that holds one")
    with _readable(path):
        return tokenizers.Tokenizer.from_file(str(path))


def _read_gpt2_pair(folder: Path) -> tokenizers.Tokenizer:
    with _readable(folder):
        return _byte_level(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001  the library raises nothing narrower
        fault = str(error).partition("\n")[0]
        raise UserError(f"tokenizer {path}: can't be read ({fault}); take a whole copy or build it again") from None


def _is_ours_by_character(backend: tokenizers.Tokenizer) -> bool:
    return isinstance(backend.decoder, decoders.Fuse)


def _train_characters(corpus: Path, config: TokenizerConfig) -> tokenizers.Tokenizer:
    """Every character of the text (validation's too, which must be encodable) is a token: a BPE without merges."""
    characters = set(f"{CHAT_REQUEST}\n") if config.chat else set()
    for split, limit in (("train", config.train_stories), ("validation", None)):
        for batch in _texts(corpus, split, limit):
            characters.update(*batch)
    specials = [token.content for token in _special_tokens(config)]
    if config.unknown == "replace":
        specials.append(UNKNOWN)
    vocab = {token: id_ for id_, token in enumerate([*specials, *sorted(characters)])}
    unknown = UNKNOWN if config.unknown == "replace" else None
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=unknown, cache_capacity=0))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True) for token in specials])
    return backend


def _special_tokens(config: TokenizerConfig) -> list[AddedToken]:
    names = (END, *CHAT_TAGS) if config.chat else (END,)
    return [AddedToken(name, special=True, normalized=False) for name in names]


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _texts(corpus: Path, split: str, limit: int | None) -> Iterator[list[str]]:
    from pyarrow import parquet  # 120 ms that `ddlm --help` need not wait for

    path = corpus / f"{split}.parquet"
    file = parquet.ParquetFile(path, pre_buffer=False)  # a pre-buffer would end up holding the whole file
    batches = file.iter_batches(1024, columns=["text"])
    stories = islice((text for batch in batches for text in batch.column("text").to_pylist()), limit)
    while texts := list(islice(stories, 1024)):
        yield texts
