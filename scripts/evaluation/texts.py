"""Held-out text as samples of tokens, for any model.

In: a folder of token shards, or text of any kind that `python -m data prepare` reads. Out: samples [n, T+1] in the
subject's own tokens.
Always: shards made with the subject's tokenizer are used as they are, so the numbers equal the trainer's; otherwise
the text is tokenized anew, and bits per byte stay comparable between models.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.output import say
from data.corpus import Reading, counts_in_words, find_units, read_documents
from data.manifest import MANIFEST_FILE
from scripts.evaluation.subject import Subject


@dataclass(frozen=True)
class HeldOutSamples:
    """Samples that overlap by one token: inputs are [:-1], labels [1:]."""

    fetch: Callable[[NDArray[np.int64]], NDArray[np.int64]]
    """tokens [n, T+1] of the samples with these numbers"""
    num_samples: int
    bytes_per_token: float
    unigram_entropy: float
    """nats per token of the tokens' own distribution: what a model without context could reach"""
    eod_id: int
    same_tokens: bool
    """these are the very tokens that the trainer evaluates"""
    dataset_id: str | None = None
    """the digest of the folder of shards that they are read from"""


def open_held_out(
    path: str,
    subject: Subject,
    sequence_length: int,
    most_samples: int,
    text_field: str = "text",
    flag: str = "--data",
) -> HeldOutSamples:
    """Opens held-out data; of text no more is tokenized than ``most_samples`` need (0: all).

    ``text_field`` is the column or JSON key that holds the document, ``flag`` the setting that names ``path``.

    Raises:
        InputError: no such data, or too little for one sample.
    """
    place = Path(path)
    if not (place / MANIFEST_FILE).exists():
        return _encode_text(path, subject, sequence_length, most_samples, text_field, flag)
    from data.config import DataConfig
    from data.stream import open_validation
    from data.tokenizer import load_tokenizer

    validation = open_validation(DataConfig(validation=path, sequence_length=sequence_length))
    assert validation is not None
    if subject.fingerprint != validation.fingerprint:
        tokenizer = load_tokenizer(place)
        documents = _decoded_documents(validation.fetch, validation.num_samples, validation.eod_id, tokenizer.decode)
        return _encode(documents, f"{flag} {path}", subject, sequence_length, most_samples, Counter())
    if validation.num_samples == 0:
        raise InputError(f"{flag} {path}: holds no sample of {sequence_length} tokens")
    return HeldOutSamples(
        validation.fetch,
        validation.num_samples,
        validation.bytes_per_token,
        validation.unigram_entropy(),
        validation.eod_id,
        same_tokens=True,
        dataset_id=validation.source.id,
    )


def _encode_text(
    path: str, subject: Subject, sequence_length: int, most_samples: int, text_field: str, flag: str
) -> HeldOutSamples:
    """Reads text as `prepare` does, and says what was left out."""
    left_out: Counter[str] = Counter()
    units = find_units([path], left_out, flag=flag)
    reading = Reading(text_field)
    documents = (text for unit in units for text in read_documents(unit, reading, left_out) if text)
    samples = _encode(documents, f"{flag} {path}", subject, sequence_length, most_samples, left_out)
    for reason, count in sorted(left_out.items()):
        say(f"{flag} {path}: {count} {reason}")
    return samples


def _decoded_documents(
    fetch: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    num_samples: int,
    eod_id: int,
    decode: Callable[[list[int]], str],
) -> Iterator[str]:
    """The documents of a token folder, in order; the last may be cut."""
    rest: list[int] = []
    for number in range(num_samples):
        rest += fetch(np.array([number]))[0, :-1].tolist()
        while eod_id in rest:
            end = rest.index(eod_id)
            yield decode(rest[:end])
            rest = rest[end + 1 :]
    if rest:
        yield decode(rest)


def _encode(
    documents: Iterator[str],
    what: str,
    subject: Subject,
    sequence_length: int,
    most_samples: int,
    left_out: Counter[str],
) -> HeldOutSamples:
    end = subject.end_id
    if end is None:
        raise InputError(f"--model {subject.name}: its tokenizer has no end-of-text token to put between documents")
    ids: list[int] = []
    text_bytes = 0
    for document in documents:
        ids += [*subject.encode(document), end]
        text_bytes += len(document.encode())
        if most_samples and len(ids) > most_samples * sequence_length:
            break
    tokens = np.array(ids, dtype=np.int64)
    num_samples = (len(tokens) - 1) // sequence_length
    if num_samples < 1:
        why = f"; left out: {counts_in_words(left_out)}" if left_out else ""
        raise InputError(f"{what}: {len(tokens)} tokens, too few for one sample of {sequence_length}{why}")

    def fetch(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.stack([tokens[n * sequence_length : (n + 1) * sequence_length + 1] for n in numbers])

    shares = np.unique(tokens, return_counts=True)[1] / len(tokens)
    entropy = float(-(shares * np.log(shares)).sum())
    return HeldOutSamples(fetch, num_samples, text_bytes / len(tokens), entropy, end, same_tokens=False)
