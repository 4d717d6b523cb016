"""Where the documents of a shard begin, and their digests, as the file beside the shard says.

In: an opened dataset and the number of a shard. Out: one record per document. Always: a file that is cut, or whose
documents do not follow each other through the shard, is an error.
"""

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from data.manifest import documents_file
from data.shards import DOCUMENT_RECORD
from data.source import TokenSource


def document_records(source: TokenSource, index: int, past_copies: bool = False) -> NDArray[np.void]:
    """The records of shard ``index``, in the order of the documents; ``past_copies``: not from any local copy.

    Raises:
        InputError: the file is missing or damaged.
    """
    shard = source.manifest.shards[index]
    read = source.storage.read_origin if past_copies else source.storage.read
    size = shard.documents * DOCUMENT_RECORD.itemsize
    content = read(documents_file(index), 0, size) if size else b""
    records = np.frombuffer(content, DOCUMENT_RECORD)
    starts = records["start"]
    follow = np.all(starts[1:] > starts[:-1]) and (not len(starts) or (starts[0] == 0 and starts[-1] < shard.tokens))
    if not follow:
        name = f"{source.storage.location}/{documents_file(index)}"
        raise InputError(f"{name}: damaged: its documents do not follow each other; restore or prepare it again")
    return records


def check_documents(source: TokenSource, index: int) -> NDArray[np.int64]:
    """The first tokens of the documents of shard ``index``; the file has not a byte too many, either.

    Raises:
        InputError: the file is missing or damaged.
    """
    expected = source.manifest.shards[index].documents * DOCUMENT_RECORD.itemsize
    (size,) = source.storage.sizes([documents_file(index)])
    if size != expected:
        raise InputError(f"{source.storage.location}/{documents_file(index)}: {size} bytes, expected {expected}")
    return document_records(source, index, past_copies=True)["start"].astype(np.int64)
