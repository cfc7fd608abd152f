import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import tokenizers
from pyarrow import parquet

from ddlm.artifacts import Workspace
from ddlm.config import UserError
from ddlm.tokenizer import CHAT_TAGS, END, MASK, PROBE, UNKNOWN, Tokenizer, TokenizerConfig, build, resolve

TRAIN = ["Once upon a time a little dog saw a red ball.", 'The dog ran.\nThe "ball" was big!', "It’s 5 o’clock."] * 4
HARD_TEXTS = [
    PROBE,
    "",
    "   \n\n\t x ",
    "a" * 5000,
    "\x00\x01\x7f\u200b\ufeff\u2028",
    "日本語 العربية 🙂👩‍👩‍👧 \U0010ffff",
    "<|mask|><|user|> <|endoftext|>",
]
Make = Callable[..., Tokenizer]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    parquet.write_table(pa.table({"text": TRAIN}), folder / "train.parquet")
    parquet.write_table(pa.table({"text": ["The cat zips."]}), folder / "validation.parquet")
    return folder


@pytest.fixture
def make(corpus: Path, tmp_path: Path, recorder) -> Make:
    """Builds a tokenizer by the stage's function and loads what it wrote."""

    def run(folder: str = "tokenizer", **config) -> Tokenizer:
        (tmp_path / folder).mkdir()
        section = TokenizerConfig(**{"vocab_size": 270, "min_frequency": 1, **config})
        workspace = Workspace({"corpus": corpus}, tmp_path / folder, tmp_path, recorder)
        build(workspace, tokenizer=section, source=resolve(section))
        return Tokenizer.load(tmp_path / folder)

    return run


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_byte_level_bpe_gives_any_text_back(make: Make, text: str) -> None:
    tokenizer = make()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_ids_are_fixed_and_the_mask_is_last(make: Make) -> None:
    tokenizer = make(chat=True)
    ids = [tokenizer.backend.token_to_id(name) for name in (END, *CHAT_TAGS)]
    assert ids == [0, 1, 2, 3, 4]
    assert (tokenizer.end_id, tokenizer.vocab_size, tokenizer.mask_id) == (0, 270, 270)
    assert tokenizer.backend.token_to_id(MASK) == 270


def test_a_typed_special_name_stays_plain_text_after_loading(make: Make) -> None:
    tokenizer = make(chat=True)
    text = f"a {END} b {MASK} c {CHAT_TAGS[1]}"
    for ids in (tokenizer.encode(text), *tokenizer.encode_batch([text, text])):
        assert min(ids) > 4
        assert max(ids) < tokenizer.vocab_size
        assert tokenizer.decode(ids) == text


def test_decoding_drops_special_tokens(make: Make) -> None:
    tokenizer = make()
    assert tokenizer.decode([*tokenizer.encode("The dog"), tokenizer.mask_id, tokenizer.end_id]) == "The dog"


def test_the_chat_format_is_the_one_of_the_seed_project(make: Make) -> None:
    tokenizer = make(chat=True)
    ids = tokenizer.encode_story("The dog ran.")
    written = tokenizer.backend.decode(ids, skip_special_tokens=False)
    assert written == "<|user|>\nWrite a short story.\n<|assistant|>\nThe dog ran.\n<|end|>\n"
    assert [id_ for id_ in ids if id_ < 5] == [2, 3, 4]


def test_without_chat_a_story_is_encoded_as_text(make: Make) -> None:
    tokenizer = make()
    assert not tokenizer.chat
    assert tokenizer.encode_story("The dog ran.") == tokenizer.encode("The dog ran.")


@pytest.mark.parametrize("kind", ["bpe", "characters"])
def test_training_twice_gives_equal_bytes(make: Make, tmp_path: Path, kind: str) -> None:
    for folder in ("one", "two"):
        make(folder, kind=kind)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_more_vocabulary_than_the_text_supports_is_refused(make: Make) -> None:
    with pytest.raises(
        UserError, match=r"vocab_size 5000: the text supports \d+ tokens .* ask for at most \d+"
    ) as fault:
        make(vocab_size=5000)
    supported = int(str(fault.value).split("supports ")[1].split()[0])
    assert make("again", vocab_size=supported).vocab_size == supported


def test_training_takes_the_first_stories_only_when_told(make: Make) -> None:
    with pytest.raises(UserError, match="supports") as fault:
        make(vocab_size=5000, train_stories=1)
    few = int(str(fault.value).split("supports ")[1].split()[0])
    with pytest.raises(UserError, match="supports") as fault:
        make("all", vocab_size=5000)
    assert int(str(fault.value).split("supports ")[1].split()[0]) > few


def test_transformers_loads_what_we_save(make: Make, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    ours = make(chat=True)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert (theirs.eos_token_id, theirs.pad_token_id, theirs.mask_token_id) == (0, 0, ours.mask_id)
    for text in HARD_TEXTS:
        assert theirs(text, add_special_tokens=False).input_ids == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text


def test_the_pair_of_files_is_the_same_model(make: Make, tmp_path: Path) -> None:
    ours = make()
    pair = tokenizers.models.BPE.from_file(
        str(tmp_path / "tokenizer/vocab.json"), str(tmp_path / "tokenizer/merges.txt")
    )
    assert pair.token_to_id(END) == 0
    assert [pair.id_to_token(id_) for id_ in range(ours.vocab_size)] == [
        ours.backend.id_to_token(id_) for id_ in range(ours.vocab_size)
    ]


class TestCharacters:
    def test_text_comes_back(self, make: Make) -> None:
        tokenizer = make(kind="characters")
        assert tokenizer.kind == "characters"
        for text in [*TRAIN, "The cat zips."]:  # the last is validation's
            assert tokenizer.decode(tokenizer.encode(text)) == text
            assert len(tokenizer.encode(text)) == len(text)

    def test_unseen_characters_are_refused_by_name(self, make: Make) -> None:
        tokenizer = make(kind="characters")
        with pytest.raises(UserError, match="characters 'QX': the tokenizer never saw them") as fault:
            tokenizer.encode("QuX")
        assert "\n" not in str(fault.value)

    def test_unseen_characters_are_replaced_when_told(self, make: Make) -> None:
        tokenizer = make(kind="characters", unknown="replace")
        assert tokenizer.backend.token_to_id(UNKNOWN) == 1
        assert tokenizer.encode("QX a")[:2] == [1, 1]
        assert tokenizer.decode(tokenizer.encode("The QX dog")) == "The  dog"

    def test_the_chat_request_can_be_written(self, make: Make) -> None:
        tokenizer = make(kind="characters", chat=True, train_stories=1)
        written = tokenizer.backend.decode(tokenizer.encode_story("a dog"), skip_special_tokens=False)
        assert written == "<|user|>\nWrite a short story.\n<|assistant|>\na dog\n<|end|>\n"

    def test_transformers_loads_them(self, make: Make, tmp_path: Path) -> None:
        from transformers import AutoTokenizer

        ours = make(kind="characters")
        theirs = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
        assert theirs(TRAIN[1]).input_ids == ours.encode(TRAIN[1])
        assert theirs.decode(ours.encode(TRAIN[1])) == TRAIN[1]


class TestPretrained:
    @pytest.fixture
    def pair(self, make: Make, tmp_path: Path) -> Path:
        """A GPT-2 style pair: no tokenizer.json, no special tokens but the end token, which comes last."""
        make()
        vocab = json.loads((tmp_path / "tokenizer/vocab.json").read_text())
        del vocab[END]
        vocab = {token: id_ - 1 for token, id_ in vocab.items()}
        folder = tmp_path / "pair"
        folder.mkdir()
        (folder / "vocab.json").write_text(json.dumps({**vocab, END: len(vocab)}))
        (folder / "merges.txt").write_text((tmp_path / "tokenizer/merges.txt").read_text())
        return folder

    @pytest.mark.parametrize("has_end", [True, False])
    def test_a_gpt2_pair_keeps_its_ids(self, make: Make, pair: Path, has_end: bool) -> None:
        vocab = json.loads((pair / "vocab.json").read_text())
        if not has_end:
            (pair / "vocab.json").write_text(json.dumps({token: id_ for token, id_ in vocab.items() if token != END}))
        tokenizer = make("taken", pretrained=str(pair))
        assert (tokenizer.end_id, tokenizer.vocab_size, tokenizer.mask_id) == (269, 270, 270)
        assert tokenizer.encode("A") == [vocab["A"]]
        assert tokenizer.decode(tokenizer.encode(PROBE)) == PROBE

    def test_a_tokenizer_json_is_taken_as_it_is(self, make: Make, tmp_path: Path) -> None:
        first = make()
        again = make("again", pretrained=str(tmp_path / "tokenizer"))
        assert again.encode(PROBE) == first.encode(PROBE)
        assert (tmp_path / "again/tokenizer.json").read_bytes() == (tmp_path / "tokenizer/tokenizer.json").read_bytes()

    def test_chat_tags_are_added_before_the_mask(self, make: Make, pair: Path) -> None:
        tokenizer = make("taken", pretrained=str(pair), chat=True)
        assert [tokenizer.backend.token_to_id(tag) for tag in (*CHAT_TAGS, MASK)] == [270, 271, 272, 273, 274]

    def test_chat_tags_without_the_chat_setting_are_refused(self, make: Make, tmp_path: Path) -> None:
        make(chat=True)
        with pytest.raises(UserError, match=r"set tokenizer\.chat=true"):
            make("taken", pretrained=str(tmp_path / "tokenizer"))

    def test_added_tokens_that_are_text_count_as_text(self, make: Make, pair: Path, tmp_path: Path) -> None:
        backend = tokenizers.ByteLevelBPETokenizer(str(pair / "vocab.json"), str(pair / "merges.txt"))
        backend.add_tokens(["    "])
        (tmp_path / "spaces").mkdir()
        backend.save(str(tmp_path / "spaces/tokenizer.json"))
        tokenizer = make("taken", pretrained=str(tmp_path / "spaces"))
        (indent,) = tokenizer.encode("    ")
        assert tokenizer.token_bytes()[indent] == 4

    def test_its_source_changes_with_its_files(self, pair: Path) -> None:
        config = TokenizerConfig(pretrained=str(pair))
        before = resolve(config)
        (pair / "merges.txt").write_text("#version: 0.2\n")
        assert resolve(config) != before
        assert resolve(TokenizerConfig()) is None

    def test_a_missing_folder_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"nowhere: found neither tokenizer\.json nor"):
            resolve(TokenizerConfig(pretrained="nowhere"))

    def test_half_a_pair_is_refused(self, make: Make, pair: Path) -> None:
        (pair / "merges.txt").unlink()
        with pytest.raises(UserError, match=r"tokenizer .*pair: can't be read"):
            make("taken", pretrained=str(pair))

    @pytest.mark.parametrize("lossy", ["lowercase", "prefix space", "words"])
    def test_one_that_loses_text_is_refused(self, make: Make, tmp_path: Path, lossy: str) -> None:
        make()
        path = tmp_path / "tokenizer/tokenizer.json"
        backend = tokenizers.Tokenizer.from_file(str(path))
        if lossy == "lowercase":
            backend.normalizer = tokenizers.normalizers.Lowercase()
        elif lossy == "prefix space":
            backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
        else:
            backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        backend.save(str(path))
        with pytest.raises(UserError, match="does not give every text back"):
            make("taken", pretrained=str(tmp_path / "tokenizer"))

    def test_a_mask_among_the_other_ids_is_refused(self, make: Make, tmp_path: Path) -> None:
        make()
        path = tmp_path / "tokenizer/tokenizer.json"
        backend = tokenizers.Tokenizer.from_file(str(path))
        backend.add_tokens(["after the mask"])
        backend.save(str(path))
        with pytest.raises(UserError, match=r"ids have gaps or <\|mask\|> is not the last"):
            make("taken", pretrained=str(tmp_path / "tokenizer"))


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer .*tokenizer.json: no such file"):
        Tokenizer.load(tmp_path)


def test_a_truncated_tokenizer_is_named(make: Make, tmp_path: Path) -> None:
    make()
    path = tmp_path / "tokenizer/tokenizer.json"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"tokenizer.json: can't be read \(.*\)"):
        Tokenizer.load(tmp_path / "tokenizer")


def test_a_foreign_tokenizer_without_our_tokens_is_refused(make: Make, tmp_path: Path) -> None:
    make()
    document = json.loads((tmp_path / "tokenizer/tokenizer.json").read_text())
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] != MASK]
    (tmp_path / "tokenizer/tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"has no <\|mask\|>; take it in with tokenizer.pretrained"):
        Tokenizer.load(tmp_path / "tokenizer")


def test_text_that_is_no_unicode_is_refused(make: Make) -> None:
    with pytest.raises(UserError, match="not valid UTF-8"):
        make().encode(b"caf\xe9".decode(errors="surrogateescape"))


@pytest.mark.parametrize("config", [{}, {"kind": "characters"}])
def test_token_bytes_add_up_to_the_text(make: Make, config: dict[str, str]) -> None:
    tokenizer = make(**config)
    sizes = tokenizer.token_bytes()
    assert len(sizes) == tokenizer.vocab_size
    assert sizes[tokenizer.end_id] == 0
    for text in TRAIN:
        assert sum(sizes[id_] for id_ in tokenizer.encode(text)) == len(text.encode())
