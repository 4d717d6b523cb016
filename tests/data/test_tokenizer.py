"""Tokenizers: every text comes back, long ones too; a saved tokenizer that was changed is refused."""

import hashlib
import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from common.errors import InputError
from data.small_bpe import EOD, train_small_bpe
from data.tokenizer import (
    LONG_TEXT,
    HuggingFaceTokenizer,
    TiktokenTokenizer,
    Tokenizer,
    describe,
    load_tokenizer,
    named_tokenizer,
)
from tests.data.conftest import sentences

STRANGE = ["", " ", "\n\n\n", "naïve café 北京 🎉", "a\r\nb\tc\0d", "12345 1234567", f"what {EOD} means", "x" * 5000]


@pytest.fixture(scope="module")
def small() -> TiktokenTokenizer:
    return train_small_bpe([sentences(seed, 20) for seed in range(50)], 330)


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<eos>"], initial_alphabet=alphabet)
    backend.train_from_iterator([sentences(seed, 20) for seed in range(50)], trainer)
    backend.decoder = decoders.ByteLevel()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    backend.save(str(path))
    return path


@pytest.fixture(params=["small", "tokenizer_json"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    value = request.getfixturevalue(request.param)
    return value if isinstance(value, TiktokenTokenizer) else named_tokenizer(str(value))


@pytest.mark.parametrize("text", STRANGE)
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= token < tokenizer.vocab_size for token in ids)


def test_the_small_bpe_has_the_size_that_was_asked_for(small: TiktokenTokenizer) -> None:
    assert small.vocab_size == 330
    assert small.eod_id == 329
    assert small.encode(EOD) != [small.eod_id]  # its name in a text is text
    assert len(small.encode("The geese flew over quiet water.")) <= 16  # bytes alone would take 32


def test_training_again_gives_the_same_tokenizer(small: TiktokenTokenizer) -> None:
    again = train_small_bpe([sentences(seed, 20) for seed in range(50)], 330)
    assert again.fingerprint == small.fingerprint
    assert train_small_bpe([sentences(1, 50)], 330).fingerprint != small.fingerprint
    with pytest.raises(InputError, match="--vocab-size: must be at least 257"):
        train_small_bpe(["text"], 256)


def test_long_text_has_the_ids_of_the_whole(small: TiktokenTokenizer) -> None:
    text = "\n".join(sentences(seed, 400) + "\n\n  indented\n" for seed in range(60))
    assert len(text) > 2 * LONG_TEXT
    ids, inexact = small.encode_document(text)
    assert not inexact
    assert ids.tolist() == small._encoding.encode_ordinary(text)


def test_a_million_spaces_neither_crash_nor_vanish(small: TiktokenTokenizer) -> None:
    text = "before\n" + " " * 1_200_000 + "after"
    ids, inexact = small.encode_document(text)
    assert inexact
    assert small.decode(ids.tolist()) == text


@pytest.mark.parametrize("letters", ["a", "ab ", "9", "!?", "\n"])
def test_five_million_characters_without_a_break_come_back(small: TiktokenTokenizer, letters: str) -> None:
    text = letters * (5_000_000 // len(letters))
    assert small.decode(small.encode_document(text)[0].tolist()) == text


def test_saved_and_loaded_it_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert describe(loaded) == describe(tokenizer)
    assert (loaded.eod_id, loaded.vocab_size) == (tokenizer.eod_id, tokenizer.vocab_size)
    for text in STRANGE:
        assert loaded.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize(
    ("key", "value"), [("pattern", r"\w+|\W+"), ("special_tokens", {"<|endoftext|>": 777}), ("eod_id", 3)]
)
def test_a_changed_tokenizer_is_refused(small: TiktokenTokenizer, tmp_path: Path, key: str, value: object) -> None:
    small.save(tmp_path)
    info = tmp_path / "tokenizer_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {key: value}))
    with pytest.raises(InputError, match="do not match their fingerprint"):
        load_tokenizer(tmp_path)


def test_two_entries_of_one_id_are_refused_before_tiktoken_panics(
    small: TiktokenTokenizer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small.save(tmp_path)
    file = tmp_path / "tokenizer.tiktoken"
    whole = file.read_bytes().splitlines()
    for again in (b"0", b"%d" % small.eod_id):
        file.write_bytes(b"\n".join([*whole[:-1], whole[-1].split()[0] + b" " + again]))
        with pytest.raises(InputError, match="two of its entries have one id"):
            load_tokenizer(tmp_path)
    assert capfd.readouterr().err == ""


def test_changed_or_missing_files_are_refused(small: TiktokenTokenizer, tokenizer_json: Path, tmp_path: Path) -> None:
    small.save(tmp_path / "small")
    ranks = tmp_path / "small" / "tokenizer.tiktoken"
    lines = ranks.read_bytes().splitlines()
    ranks.write_bytes(b"\n".join(lines[:-1]) + b"\n")
    with pytest.raises(InputError, match="do not match their fingerprint"):
        load_tokenizer(tmp_path / "small")
    ranks.write_bytes(b"no ranks at all\n")
    with pytest.raises(InputError, match="not a saved tokenizer"):
        load_tokenizer(tmp_path / "small")
    HuggingFaceTokenizer(tokenizer_json.read_text(), "x").save(tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="not a saved tokenizer"):
        load_tokenizer(tmp_path / "hf")
    with pytest.raises(InputError, match="no such tokenizer description"):
        load_tokenizer(tmp_path)


def test_names_that_mean_nothing_are_refused(tokenizer_json: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    for name, eod, message in (
        ("cl100k_bas", None, "did you mean 'cl100k_base'"),
        (str(tmp_path / "bad.json"), None, "not a Hugging Face tokenizer.json"),
        (str(tmp_path / "none.json"), None, "not readable"),
        (str(tokenizer_json), "</end>", "none of the end-of-document tokens </end>"),
    ):
        with pytest.raises(InputError, match=message):
            named_tokenizer(name, eod)


def test_a_tiktoken_encoding_comes_out_of_its_cache(
    small: TiktokenTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cl100k_base by name, without a network: refused when it is not cached."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    with pytest.raises(
        InputError,
        match=r"cannot be fetched .* put cl100k_base\.tiktoken as 9b5ad71b2ce5302211f9c61530b329a4922fc6a4 there",
    ):
        named_tokenizer("cl100k_base")
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {"cl100k_base": small._encoding})
    named = named_tokenizer("cl100k_base")
    with pytest.raises(InputError, match=r"--eod-token </s>: cl100k_base has the special tokens .*endoftext"):
        named_tokenizer("cl100k_base", "</s>")
    assert (named.kind, named.eod_id, named.vocab_size) == ("tiktoken", 329, 330)


def test_the_inner_ids_stand_in_every_text_with_the_snippet(tokenizer: Tokenizer) -> None:
    snippet = "eese flew over quiet water while the cat sat on the m"
    inner = tokenizer.inner_ids(snippet)
    whole = tokenizer.encode("Seven grey geese flew over quiet water while the cat sat on the mats of nobody.")
    assert len(inner) >= 8
    assert any(whole[place : place + len(inner)] == inner for place in range(len(whole)))


def altered(path: Path, folder: Path, **changes: object) -> Path:
    """A copy of a tokenizer.json with other values at its top level."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder / "tokenizer.json"


END_AROUND = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<eos>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "<eos>", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<eos>": {"id": "<eos>", "ids": [0], "tokens": ["<eos>"]}},
}
STATES = {
    "truncation": {"direction": "Left", "max_length": 7, "strategy": "LongestFirst", "stride": 0},
    "padding": {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<eos>",
    },
    "post_processor": END_AROUND,
}


@pytest.mark.parametrize("state", STATES)
def test_state_inside_a_tokenizer_json_changes_no_id(tokenizer_json: Path, tmp_path: Path, state: str) -> None:
    plain = named_tokenizer(str(tokenizer_json))
    hostile = named_tokenizer(str(altered(tokenizer_json, tmp_path, **{state: STATES[state]})))
    text = sentences(3, 40)
    assert len(plain.encode(text)) > 64
    for probe in (text, "short", ""):
        assert hostile.encode(probe) == plain.encode(probe)
    assert hostile.fingerprint == plain.fingerprint
    hostile.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
    assert not saved["truncation"] and not saved["padding"] and not saved["post_processor"]


def test_dropped_merges_are_not_left_to_chance(tokenizer_json: Path, tmp_path: Path) -> None:
    model = json.loads(tokenizer_json.read_text())["model"] | {"dropout": 0.5}
    hostile = named_tokenizer(str(altered(tokenizer_json, tmp_path, model=model)))
    text = sentences(3, 40)
    assert hostile.encode(text) == hostile.encode(text) == named_tokenizer(str(tokenizer_json)).encode(text)


def test_a_corpus_made_before_the_state_was_taken_out_is_still_known(tokenizer_json: Path, tmp_path: Path) -> None:
    """Earlier versions saved the file as it was and took the fingerprint of that."""
    hostile = altered(tokenizer_json, tmp_path, post_processor=END_AROUND)
    content = json.loads(hostile.read_text())
    fingerprint = hashlib.sha256(json.dumps([content, 0], sort_keys=True).encode()).hexdigest()
    info = {"kind": "huggingface", "name": "x", "fingerprint": fingerprint, "eod_id": 0, "vocab_size": 400}
    (tmp_path / "tokenizer_info.json").write_text(json.dumps(info | {"eod_token": "<eos>"}))
    assert load_tokenizer(tmp_path).answers_to(fingerprint)


@pytest.mark.parametrize("special", [True, False])
def test_the_end_tokens_name_in_a_text_is_text(tokenizer_json: Path, tmp_path: Path, special: bool) -> None:
    added = [
        {"id": index, "content": name, "single_word": False, "lstrip": True, "rstrip": True, "normalized": normalized}
        | {"special": special or index == 401}
        for index, name, normalized in ((0, "<eos>", True), (401, "<pad>", False))
    ]
    tokenizer = named_tokenizer(str(altered(tokenizer_json, tmp_path, added_tokens=added)))
    text = "one <eos> two<eos>three <pad> <eos"
    ids = tokenizer.encode(text)
    assert not {0, 401} & set(ids)
    assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_a_model_of_whole_words_gives_no_end_token_either(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"[UNK]": 0, "[SEP]": 1, "say": 2, "[": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["[UNK]", "[SEP]"])
    backend.save(str(tmp_path / "words.json"))
    tokenizer = named_tokenizer(str(tmp_path / "words.json"))
    assert tokenizer.encode("say [SEP] say what") == [2, 3, 0, 2, 0]


GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
CL100K = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"""
    r"""\s+(?!\S)|\s"""
)
ONLY_WORDS_AND_LINES = r"\w+\n\w+|[\s\S]"


@pytest.mark.parametrize("pattern", [GPT2, CL100K, ONLY_WORDS_AND_LINES])
def test_a_long_document_has_the_ids_of_the_whole_under_every_pattern(pattern: str) -> None:
    """Blanks before line breaks are what GPT-2's pattern divides otherwise at the end of a text."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for pair in (b"  ", b" \n", b"\n\n", b"  \n", b"    ", b"ab", b"a\n", b"a\nb"):
        ranks[pair] = len(ranks)
    tokenizer = TiktokenTokenizer("probe", pattern, ranks, {EOD: 300}, 300)
    ends = ["  \n", "\n", " \n", "\n\n", "\t \n", "\r\n", "    \n\n"]
    dice = random.Random(7)
    text = "".join("abab a1!"[dice.randrange(3) :] + dice.choice(ends) for _ in range(240_000))
    assert len(text) > 3 * LONG_TEXT
    ids, inexact = tokenizer.encode_document(text)
    assert not inexact
    assert ids.tolist() == tokenizer._encoding.encode_ordinary(text)


def test_a_folder_of_hugging_face_is_taken_with_its_own_end_token(tokenizer_json: Path, tmp_path: Path) -> None:
    altered(tokenizer_json, tmp_path / "hf")
    with pytest.raises(InputError, match="none of the end-of-document tokens </s>"):
        (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
        named_tokenizer(str(tmp_path / "hf"))
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    plain = named_tokenizer(str(tokenizer_json))
    assert named_tokenizer(str(tmp_path / "hf")).fingerprint == plain.fingerprint
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.model").touch()
    with pytest.raises(InputError, match=r"holds no tokenizer\.json; of its tokenizer\.model, transformers makes one"):
        named_tokenizer(str(tmp_path / "other"))
    plain.save(tmp_path / "ours")
    with pytest.raises(InputError, match=r"--eod-token <pad>: the tokenizer saved in .* with another"):
        named_tokenizer(str(tmp_path / "ours"), "<pad>")


def test_a_name_of_the_hub_that_cannot_be_fetched_says_what_to_put_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match=r"--tokenizer org/model: .* put its tokenizer\.json and tokenizer_config\.json"
    ):
        named_tokenizer("org/model")
