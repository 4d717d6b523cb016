"""Which samples a rank reads, and where documents begin inside them.

In: a step and the split over data-parallel ranks; tokens. Out: global sample numbers per micro-batch; document
starts. Always: sample j of step s is number s * global_size + j, whatever the number of ranks and the
micro-batch: a change of either leaves the global order as it was.
"""

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError


def rank_samples(
    step: int, global_size: int, micro_size: int, data_size: int, data_rank: int
) -> list[NDArray[np.int64]]:
    """Global sample numbers of one data-parallel rank in ``step`` (from 0), one array [micro_size] per micro-batch.

    Raises:
        InputError: ``global_size`` is no multiple of ``micro_size * data_size``.
    """
    return split_samples(step * global_size, global_size, micro_size, data_size, data_rank)


def split_samples(
    first: int, global_size: int, micro_size: int, data_size: int, data_rank: int
) -> list[NDArray[np.int64]]:
    """As ``rank_samples``, for the global batch that begins with sample ``first`` (batch-size ramps)."""
    per_pass = micro_size * data_size
    if global_size % per_pass:
        raise InputError(
            f"batch.global_size: {global_size} sequences do not divide into micro-batches of {micro_size} on "
            f"{data_size} data-parallel ranks; a multiple of {per_pass} would"
        )
    starts = range(first + data_rank * micro_size, first + global_size, per_pass)
    return [np.arange(start, start + micro_size, dtype=np.int64) for start in starts]


def document_starts(tokens_BT: NDArray[np.integer], eod_id: int) -> NDArray[np.int32]:
    """For each token the index in its sequence of the first token of the document that it is in, int32 [B, T].

    An EOD token belongs to the document that it ends. Positions that restart at document ends are
    ``arange(T) - document_starts``.
    """
    batch, length = tokens_BT.shape
    begins_BT = np.zeros((batch, length), np.int32)
    begins_BT[:, 1:] = np.where(tokens_BT[:, :-1] == eod_id, np.arange(1, length, dtype=np.int32), 0)
    return np.maximum.accumulate(begins_BT, axis=1)
