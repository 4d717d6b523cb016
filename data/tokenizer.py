"""Text to token ids and back: tiktoken encodings, the project's own small BPE, Hugging Face tokenizers.

In: the name of a tiktoken encoding, a Hugging Face tokenizer.json, or a folder where one was saved. Out: a
Tokenizer. Always: the fingerprint is a digest of all that decides the ids, and a saved tokenizer that does not
match its fingerprint is refused; encoding never raises for any text.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import regex
import tiktoken
from numpy.typing import NDArray

from common.errors import InputError, nearest
from common.files import read_json, write_atomically, write_json

INFO_FILE = "tokenizer_info.json"
RANKS_FILE = "tokenizer.tiktoken"
HUGGING_FACE_FILE = "tokenizer.json"
EOD_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<|im_end|>", "[SEP]")
LONG_TEXT = 1 << 19
SHORT_PIECE = 1 << 14


class Tokenizer(Protocol):
    """What every tokenizer offers."""

    name: str
    kind: str
    eod_id: int
    vocab_size: int
    """largest id + 1, special tokens included"""
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``; names of special tokens inside it are ordinary text."""

    def encode_document(self, text: str) -> tuple[NDArray[np.uint32], bool]:
        """The ids of ``text`` without EOD; and whether it had to be cut where the tokenizer would not have."""

    def inner_ids(self, text: str) -> list[int]:
        """The ids that ``text`` has wherever it stands: those of its first and last word are left out."""

    def decode(self, ids: list[int]) -> str:
        """The text of ``ids``."""

    def save(self, folder: Path) -> None:
        """Writes what ``load_tokenizer`` reads."""


@dataclass
class TiktokenTokenizer:
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
        self._encoding = tiktoken.Encoding(
            self.name, pat_str=self.pattern, mergeable_ranks=self.ranks, special_tokens=self.special_tokens
        )

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``."""
        return self.encode_document(text)[0].tolist()

    def encode_document(self, text: str) -> tuple[NDArray[np.uint32], bool]:
        """The ids of ``text``; a long text goes through in pieces.

        A piece ends after a line break that a letter follows: a place where every pattern of this family
        splits anyway, so the ids are those of the whole text. Where tiktoken's regex engine gives up (about a
        million spaces in a row), the piece is cut by length.
        """
        ids: list[NDArray[np.uint32]] = []
        inexact = False
        for piece in _pieces(text):
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


class HuggingFaceTokenizer:
    """A tokenizer.json of the Hugging Face `tokenizers` library."""

    kind = "huggingface"

    def __init__(self, content: str, name: str, eod_token: str | None = None) -> None:
        from tokenizers import Tokenizer as Backend

        try:
            self._backend = Backend.from_str(content)
        except Exception as error:
            raise InputError(f"{name}: not a Hugging Face tokenizer.json: {error}") from None
        self.name = name
        self._content = content
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        names = [eod_token] if eod_token else EOD_NAMES
        self._eod_token = next((candidate for candidate in names if candidate in vocabulary), None)
        if self._eod_token is None:
            raise InputError(f"{name}: has none of the end-of-document tokens {', '.join(names)}; name it: --eod_token")
        self.eod_id = vocabulary[self._eod_token]
        self.vocab_size = 1 + max(vocabulary.values())
        canonical = json.dumps([json.loads(content), self.eod_id], sort_keys=True)
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_document(self, text: str) -> tuple[NDArray[np.uint32], bool]:
        """The ids of ``text``, which is never cut: what such a tokenizer does at a cut is not known."""
        return np.array(self.encode(text), np.uint32), False

    def inner_ids(self, text: str) -> list[int]:
        """The ids of ``text`` without its first and last word, as the tokenizer divides it into words."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        words = [-1 if word is None else word for word in encoding.word_ids]
        return [token for token, word in zip(encoding.ids, words, strict=True) if 0 < word < max(words)]

    def decode(self, ids: list[int]) -> str:
        """The text of ``ids``."""
        return self._backend.decode(ids, skip_special_tokens=False)

    def save(self, folder: Path) -> None:
        """Writes the tokenizer.json as it was read."""
        write_atomically(folder / HUGGING_FACE_FILE, self._content)
        write_json(folder / INFO_FILE, _common_info(self) | {"eod_token": self._eod_token})


def named_tokenizer(name: str, eod_token: str | None = None) -> Tokenizer:
    """The tokenizer that ``name`` stands for: a tiktoken encoding, a tokenizer.json, or a folder with a saved one.

    Raises:
        InputError: unknown name, unreadable file, or an encoding that is neither cached nor to be downloaded.
    """
    path = Path(name)
    if path.is_dir():
        return load_tokenizer(path)
    if path.suffix == ".json" or path.is_file():
        try:
            return HuggingFaceTokenizer(path.read_text(encoding="utf-8"), path.name, eod_token)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--tokenizer {name}: not readable: {error}") from None
    known = tiktoken.list_encoding_names()
    if name not in known:
        raise InputError(
            f"--tokenizer {name}: neither small-bpe, nor a tokenizer.json, nor one of {', '.join(known)}"
            f"{nearest(name, [*known, 'small-bpe'])}"
        )
    try:
        encoding = tiktoken.get_encoding(name)
    except Exception as error:
        raise InputError(
            f"--tokenizer {name}: tiktoken has no copy under TIKTOKEN_CACHE_DIR and cannot download one: {error}"
        ) from None
    ranks, special = encoding._mergeable_ranks, encoding._special_tokens
    eod = eod_token or EOD_NAMES[0]
    if eod not in special:
        raise InputError(f"--eod_token {eod}: {name} has the special tokens {', '.join(special)}")
    return TiktokenTokenizer(name, encoding._pat_str, ranks, special, special[eod])


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
    except (KeyError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: not a saved tokenizer: {error}") from None
    if tokenizer.fingerprint != info["fingerprint"]:
        raise InputError(f"{folder}: the tokenizer's files do not match their fingerprint; prepare the data again")
    return tokenizer


def describe(tokenizer: Tokenizer) -> dict[str, str]:
    """What a manifest says about the tokenizer of its tokens."""
    return {"kind": tokenizer.kind, "name": tokenizer.name, "fingerprint": tokenizer.fingerprint}


def _common_info(tokenizer: Tokenizer) -> dict[str, Any]:
    return describe(tokenizer) | {"eod_id": tokenizer.eod_id, "vocab_size": tokenizer.vocab_size}


_SAFE_CUT = re.compile(r"\n(?=[^\W\d_])")


def _pieces(text: str) -> list[str]:
    """``text`` in pieces of at least ``LONG_TEXT`` characters, cut only where no token can cross."""
    cuts = [0]
    while (cut := _SAFE_CUT.search(text, cuts[-1] + LONG_TEXT)) is not None:
        cuts.append(cut.end())
    return [text[begin:end] for begin, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _raise_unless_from_tiktoken(error: BaseException) -> None:
    """Lets pass only tiktoken's report that its regex engine gave up: a ValueError, formerly a Rust panic."""
    if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":
        raise error
