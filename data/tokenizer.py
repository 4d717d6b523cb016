"""Text to token ids and back: tiktoken encodings, the project's own small BPE, Hugging Face tokenizers.

In: the name of a tiktoken encoding, a Hugging Face tokenizer.json, or a folder where one was saved. Out: a
Tokenizer. Always: the fingerprint is a digest of all that decides the ids, and a saved tokenizer that does not
match its fingerprint is refused; encoding never raises for any text, gives the ids of all of it, and never those of a
control token: a control token's name in a text is text.
"""

import base64
import hashlib
import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import regex
import tiktoken
from numpy.typing import NDArray

from common.errors import InputError, nearest
from common.files import read_json, write_atomically, write_json
from common.library_caches import private_encodings
from data import tiktoken_compat, tokenizer_json

INFO_FILE = "tokenizer_info.json"
RANKS_FILE = "tokenizer.tiktoken"
HUGGING_FACE_FILE = tokenizer_json.FILE
EOD_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<|im_end|>", "[SEP]")
LONG_TEXT = 1 << 19
SHORT_PIECE = 1 << 14
LARGEST_VOCABULARY = 1 << 24
"""ids are counted in tables of this size; no tokenizer comes near"""


class Tokenizer(ABC):
    """What every tokenizer offers."""

    name: str
    kind: str
    eod_id: int
    vocab_size: int
    """largest id + 1, special tokens included"""
    fingerprint: str

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of ``text``; names of special tokens inside it are ordinary text."""

    @abstractmethod
    def encode_document(self, text: str) -> tuple[NDArray[np.uint32], bool]:
        """The ids of ``text`` without EOD; and whether it had to be cut where the tokenizer would not have."""

    @abstractmethod
    def inner_ids(self, text: str) -> list[int]:
        """The ids that ``text`` has wherever it stands: those of its first and last word are left out."""

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """The text of ``ids``."""

    @abstractmethod
    def token_id(self, name: str) -> int | None:
        """The id of the special token ``name``; None where there is none."""

    @abstractmethod
    def answers_to(self, fingerprint: str) -> bool:
        """Whether ``fingerprint`` was taken of this tokenizer, by this version or an earlier one."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes what ``load_tokenizer`` reads."""


@dataclass
class TiktokenTokenizer(Tokenizer):
    """A byte-level BPE that tiktoken runs: one of its own encodings or the project's small BPE."""

    name: str
    pattern: str
    ranks: dict[bytes, int]
    special_tokens: dict[str, int]
    eod_id: int
    kind: str = "tiktoken"
    fingerprint: str = field(init=False)
    vocab_size: int = field(init=False)

    def __post_init__(self) -> None:
        self.vocab_size = 1 + max(max(self.ranks.values()), max(self.special_tokens.values()))
        digest = hashlib.sha256(json.dumps([self.pattern, sorted(self.special_tokens.items()), self.eod_id]).encode())
        for token, rank in sorted(self.ranks.items(), key=lambda entry: entry[1]):
            digest.update(len(token).to_bytes(4, "little") + token + rank.to_bytes(4, "little"))
        self.fingerprint = digest.hexdigest()
        _check_vocabulary(self.name, self.vocab_size)
        if len({*self.ranks.values(), *self.special_tokens.values()}) < len(self.ranks) + len(self.special_tokens):
            raise InputError(f"tokenizer {self.name}: two of its entries have one id")  # tiktoken would print a panic
        self._encoding = tiktoken.Encoding(
            self.name, pat_str=self.pattern, mergeable_ranks=self.ranks, special_tokens=self.special_tokens
        )
        self._safe_cut = _safe_cut(self.pattern)

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``."""
        return self.encode_document(text)[0].tolist()

    def encode_document(self, text: str) -> tuple[NDArray[np.uint32], bool]:
        """The ids of ``text``; a long text goes through in pieces.

        A piece ends after a line break that a letter follows, where this pattern splits anyway (``_safe_cut``), so the
        ids are those of the whole text. Where tiktoken's regex engine gives up (about a million spaces in a row), the
        piece is cut by length.
        """
        ids: list[NDArray[np.uint32]] = []
        inexact = False
        for piece in _pieces(text, self._safe_cut):
            try:
                ids.append(self._encode_piece(piece))
            except BaseException as error:
                _raise_unless_from_tiktoken(error)
                inexact = True
                ids += [self._encode_piece(piece[at : at + SHORT_PIECE]) for at in range(0, len(piece), SHORT_PIECE)]
        return (ids[0] if len(ids) == 1 else np.concatenate(ids)), inexact

    def inner_ids(self, text: str) -> list[int]:
        """The ids of ``text`` without its first and last word, which may be parts of longer ones."""
        words = regex.findall(self.pattern, text)
        return self.encode("".join(words[1:-1]))

    def decode(self, ids: list[int]) -> str:
        """The text of ``ids``; bytes that are no UTF-8 become U+FFFD."""
        return self._encoding.decode(ids)

    def token_id(self, name: str) -> int | None:
        """The id of the special token ``name``."""
        return self.special_tokens.get(name)

    def answers_to(self, fingerprint: str) -> bool:
        """Whether ``fingerprint`` is this tokenizer's."""
        return fingerprint == self.fingerprint

    def save(self, folder: Path) -> None:
        """Writes the ranks in tiktoken's own file format, and the rest as JSON."""
        lines = [
            base64.b64encode(token) + b" %d\n" % rank
            for token, rank in sorted(self.ranks.items(), key=lambda entry: entry[1])
        ]
        write_atomically(folder / RANKS_FILE, b"".join(lines))
        info = {"pattern": self.pattern, "special_tokens": self.special_tokens}
        write_json(folder / INFO_FILE, _common_info(self) | info)

    def _encode_piece(self, text: str) -> NDArray[np.uint32]:
        return self._encoding.encode_to_numpy(text, disallowed_special=())


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer.json of the Hugging Face library, without the state that data/tokenizer_json.py takes out."""

    kind = "huggingface"

    def __init__(self, content: str, name: str, eod_token: str | None = None) -> None:
        """Raises InputError: no tokenizer.json, or one without an end-of-document token."""
        from tokenizers import Tokenizer as Backend

        original = tokenizer_json.parse(content, name)
        document = tokenizer_json.neutral(original)
        self._content = content if document == original else json.dumps(document, ensure_ascii=False)
        try:
            self._backend = Backend.from_str(self._content)
            self._backend.encode_special_tokens = True  # their names in a text are text
            vocabulary = self._backend.get_vocab(with_added_tokens=True)
        except BaseException as error:
            _raise_unless_from_rust(error)
            raise InputError(f"{name}: not a Hugging Face tokenizer.json: {error}") from None
        self.name = name
        names = [eod_token] if eod_token else EOD_NAMES
        self._eod_token = next((candidate for candidate in names if candidate in vocabulary), None)
        if self._eod_token is None:
            raise InputError(f"{name}: has none of the end-of-document tokens {', '.join(names)}; name it: --eod-token")
        self.eod_id = vocabulary[self._eod_token]
        self.vocab_size = 1 + max(vocabulary.values())
        _check_vocabulary(name, self.vocab_size)
        self._control = self._control_tokens()
        self._control_ids = np.array(sorted(self._control.values()), np.uint32)
        self.fingerprint = _digest(document, self.eod_id)
        self._fingerprint_before = _digest(original, self.eod_id)

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``."""
        return self.encode_document(text)[0].tolist()

    def encode_document(self, text: str) -> tuple[NDArray[np.uint32], bool]:
        """The ids of ``text``, which is never cut: what such a tokenizer does at a cut is not known.

        The one exception is a model that finds a control token's name in the text by itself, as one that looks up whole
        words does: the name is then encoded in two halves.
        """
        ids = self._ids(text)
        if not np.isin(ids, self._control_ids).any():
            return ids, False
        halves = [self._ids(part) for part in self._without_names(text)]
        whole = np.concatenate(halves)
        return whole[~np.isin(whole, self._control_ids)], True

    def inner_ids(self, text: str) -> list[int]:
        """The ids of ``text`` without its first and last word, as the tokenizer divides it into words."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        words = [-1 if word is None else word for word in encoding.word_ids]
        return [token for token, word in zip(encoding.ids, words, strict=True) if 0 < word < max(words)]

    def decode(self, ids: list[int]) -> str:
        """The text of ``ids``."""
        return self._backend.decode(ids, skip_special_tokens=False)

    def token_id(self, name: str) -> int | None:
        """The id of the control token ``name``."""
        return self._control.get(name)

    def answers_to(self, fingerprint: str) -> bool:
        """Also to the digest of the file as it was found, which earlier versions took."""
        return fingerprint in (self.fingerprint, self._fingerprint_before)

    def save(self, folder: Path) -> None:
        """Writes the tokenizer.json, without the state that was taken out."""
        write_atomically(folder / HUGGING_FACE_FILE, self._content)
        write_json(folder / INFO_FILE, _common_info(self) | {"eod_token": self._eod_token})

    def _ids(self, text: str) -> NDArray[np.uint32]:
        return np.array(self._backend.encode(text, add_special_tokens=False).ids, np.uint32)

    def _control_tokens(self) -> dict[str, int]:
        """Names and ids of the tokens that no text may give: the special ones, but not the one for unknown words."""
        unknown = getattr(self._backend.model, "unk_token", None)
        added = self._backend.get_added_tokens_decoder()
        special = {token.content: index for index, token in added.items() if token.special}
        assert self._eod_token is not None
        return {name: index for name, index in special.items() if name != unknown} | {self._eod_token: self.eod_id}

    def _without_names(self, text: str) -> list[str]:
        """``text`` cut inside every name of a control token."""
        names = "|".join(re.escape(name) for name in sorted(self._control, key=len, reverse=True) if len(name) > 1)
        cuts = [match.start() + 1 for match in re.finditer(names, text)] if names else []
        return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def named_tokenizer(name: str, eod_token: str | None = None) -> Tokenizer:
    """The tokenizer that ``name`` stands for.

    Args:
        name: a tiktoken encoding, a tokenizer.json, a folder with a saved one (ours or Hugging Face's), or a name of
            the Hugging Face hub, as in "org/model".
        eod_token: the token that ends a document; by default the one that the tokenizer's own files name.

    Raises:
        InputError: unknown name, unreadable file, or an encoding that is neither cached nor to be downloaded.
    """
    path = Path(name)
    if path.is_dir():
        return _tokenizer_in(path, eod_token)
    if path.suffix == ".json" or path.is_file():
        return _tokenizer_of_file(path, eod_token or tokenizer_json.end_token(path.parent))
    known = tiktoken.list_encoding_names()
    if name in known:
        return _tiktoken_encoding(name, eod_token)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return _tokenizer_in(tokenizer_json.hub_folder(name), eod_token)
    raise InputError(
        f"--tokenizer {name}: neither small-bpe, nor a tokenizer.json or a folder with one, nor a hub name as in "
        f"org/model, nor one of {', '.join(known)}{nearest(name, [*known, 'small-bpe'])}"
    )


def _tokenizer_in(folder: Path, eod_token: str | None) -> Tokenizer:
    if not (folder / INFO_FILE).exists():
        return _tokenizer_of_file(tokenizer_json.find_file(folder), eod_token or tokenizer_json.end_token(folder))
    saved = load_tokenizer(folder)
    if eod_token and saved.token_id(eod_token) != saved.eod_id:
        raise InputError(f"--eod-token {eod_token}: the tokenizer saved in {folder} ends documents with another token")
    return saved


def _tokenizer_of_file(path: Path, eod_token: str | None) -> Tokenizer:
    try:
        return HuggingFaceTokenizer(path.read_text(encoding="utf-8"), path.name, eod_token)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--tokenizer {path}: not readable: {error}") from None


def _tiktoken_encoding(name: str, eod_token: str | None) -> Tokenizer:
    try:
        with private_encodings():
            encoding = tiktoken.get_encoding(name)
    except Exception as error:
        raise InputError(
            f"--tokenizer {name}: cannot be fetched ({_first_words(error)}); {_where_to_put(name)}"
        ) from None
    special = tiktoken_compat.special_tokens(encoding)
    eod = eod_token or EOD_NAMES[0]
    if eod not in special:
        raise InputError(f"--eod-token {eod}: {name} has the special tokens {', '.join(special)}")
    pattern, ranks = tiktoken_compat.pattern(encoding), tiktoken_compat.merges(encoding)
    return TiktokenTokenizer(name, pattern, ranks, special, special[eod])


def _where_to_put(name: str) -> str:
    """Which files tiktoken looks for, and under which names: the digest of the address of each."""
    addresses = tiktoken_compat.file_addresses(name)
    files = [f"{address.rpartition('/')[2]} as {hashlib.sha1(address.encode()).hexdigest()}" for address in addresses]
    what = " and ".join(files) or f"the files of {name}"
    return f"without a network, set TIKTOKEN_CACHE_DIR to a folder and put {what} there"


def _first_words(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer saved in ``folder``: any folder that `prepare` wrote, or an export's.

    Raises:
        InputError: files missing, unreadable or not those that the fingerprint was taken of.
    """
    info: dict[str, Any] = read_json(folder / INFO_FILE, "tokenizer description")
    tokenizer: Tokenizer
    try:
        if info["kind"] == HuggingFaceTokenizer.kind:
            content = (folder / HUGGING_FACE_FILE).read_text(encoding="utf-8")
            tokenizer = HuggingFaceTokenizer(content, info["name"], info["eod_token"])
        else:
            lines = (folder / RANKS_FILE).read_bytes().splitlines()
            ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
            tokenizer = TiktokenTokenizer(
                info["name"], info["pattern"], ranks, info["special_tokens"], info["eod_id"], info["kind"]
            )
    except InputError:
        raise
    except BaseException as error:
        _raise_unless_from_rust(error)
        raise InputError(f"{folder}: not a saved tokenizer: {_first_words(error)}") from None
    if not tokenizer.answers_to(info.get("fingerprint", "")):
        raise InputError(f"{folder}: the tokenizer's files do not match their fingerprint; prepare the data again")
    return tokenizer


def describe(tokenizer: Tokenizer) -> dict[str, str]:
    """What a manifest says about the tokenizer of its tokens."""
    return {"kind": tokenizer.kind, "name": tokenizer.name, "fingerprint": tokenizer.fingerprint}


def _common_info(tokenizer: Tokenizer) -> dict[str, Any]:
    return describe(tokenizer) | {"eod_id": tokenizer.eod_id, "vocab_size": tokenizer.vocab_size}


_BEFORE_A_LETTER = re.compile(r"\n(?=[^\W\d_])")
_ONE_BREAK_BEFORE_A_LETTER = re.compile(r"(?<=\S)\n(?=[^\W\d_])")
_BEFORE = (
    "a",
    "1",
    "!",
    "'",
    "a ",
    "a  ",
    "a\n",
    "a \n",
    "a\n ",
    "a\r",
    "a\t",
    "! ",
    "!\n",
    "1 \u00a0",
    "\n\n",
    "é",
    "漢 ",
)
_AFTER = ("b", "B", "é", "漢", "s", "ll", "Ve", "e\u0301", "x1", "x!", "x ")


def _safe_cut(pattern: str) -> re.Pattern[str] | None:
    """Where a text may be cut without a change of its words, as far as this pattern goes; None: nowhere.

    GPT-2's pattern makes two words of the blanks before a line break and the break, one at the end of a text.
    """
    words = regex.compile(pattern)
    for rule in (_BEFORE_A_LETTER, _ONE_BREAK_BEFORE_A_LETTER):
        places = (
            (before + "\n", after) for before in _BEFORE for after in _AFTER if rule.search(before + "\n" + after)
        )
        if all(words.findall(one + two) == words.findall(one) + words.findall(two) for one, two in places):
            return rule
    return None


def _pieces(text: str, safe_cut: re.Pattern[str] | None) -> list[str]:
    """``text`` in pieces of at least ``LONG_TEXT`` characters, cut only where no token can cross."""
    cuts = [0]
    while safe_cut and (cut := safe_cut.search(text, cuts[-1] + LONG_TEXT)) is not None:
        cuts.append(cut.end())
    return [text[begin:end] for begin, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _check_vocabulary(name: str, vocab_size: int) -> None:
    if vocab_size > LARGEST_VOCABULARY:
        raise InputError(f"{name}: has an id {vocab_size - 1}; at most {LARGEST_VOCABULARY - 1} is possible")


def _digest(document: dict[str, Any], eod_id: int) -> str:
    return hashlib.sha256(json.dumps([document, eod_id], sort_keys=True).encode()).hexdigest()


def _raise_unless_from_tiktoken(error: BaseException) -> None:
    """Lets pass only tiktoken's report that its regex engine gave up: a ValueError, formerly a Rust panic."""
    if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":
        raise error


def _raise_unless_from_rust(error: BaseException) -> None:
    """Lets pass errors and the panics of libraries in Rust, which are no Exceptions."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
