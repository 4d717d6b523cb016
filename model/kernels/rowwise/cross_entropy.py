"""Cross-entropy of one chunk of logits, whose columns may be split over ranks, and its gradient in their place.

In: this rank's columns of the logits [n, V/t], labels [n] of the whole vocabulary, and the ranks. Out: -log p(label) of
each row, fp32 [n], the same on every rank; where a factor is given, the logits are overwritten with so many times the
gradient of each row's loss. Always: softmax in fp32 or better; no other tensor of the logits' size is made, but pieces
of PIECE_ELEMENTS.

    written      an operation after the other, piece by piece
    compiled     each pass fused by torch's compiler, without pieces
    flash_attn   that package's (packages.py), without pieces

Liger's is not among them: it knows no split vocabulary, returns the loss in the logits' type and waits for the device.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from model.kernels.rowwise.compiled import Compiled
from model.kernels.rowwise.implementation import ANYWHERE, Implementation

PIECE_ELEMENTS = 2**22
"""elements of what is worked on in fp32 at once: a GPU is busy with them, and its cache holds them"""
CPU_PIECE_ELEMENTS = 2**18
"""the same on a CPU: a core's own cache holds them"""


class Ranks(Protocol):
    """Among whom the vocabulary is split: model.parallel.Sharding."""

    size: int
    rank: int
    group: Any

    def largest_of_ranks(self, x: Tensor) -> Tensor:
        """Element by element the largest of all ranks' ``x``, in place."""

    def sum_of_ranks(self, x: Tensor) -> Tensor:
        """Element by element the sum of all ranks' ``x``, in place."""


@dataclass(frozen=True)
class CrossEntropyKernel(Implementation):
    """One implementation."""

    losses: Callable[[Tensor, Tensor, Ranks, float | None], Tensor]
    """(logits_nV, labels_n, ranks, factor or None) to the losses"""


def piece_rows(columns: int, on_cpu: bool = False) -> int:
    """Rows of ``columns`` elements that are worked on in fp32 at the same time."""
    return max(1, (CPU_PIECE_ELEMENTS if on_cpu else PIECE_ELEMENTS) // columns)


def slices(length: int, step: int) -> Iterator[slice]:
    """Cuts ``length`` into slices of ``step``; the last one may be shorter."""
    return (slice(first, min(first + step, length)) for first in range(0, length, step))


@dataclass(frozen=True)
class _Passes:
    """The passes over the logits between which ranks exchange numbers of rows."""

    largest: Callable[[Tensor], Tensor]
    """logits to the largest of each row, fp32"""
    sums: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """(logits, largest_n, label_n1, here_n) to [2, n]: the sum of exponentials, the label's logit; above the largest"""
    differentiate: Callable[[Tensor, Tensor, Tensor, Tensor, float], Any]
    """(logits, log sum exp, label_n1, here_n, factor) overwrites the logits"""

    def losses(self, logits_nV: Tensor, labels_n: Tensor, ranks: Ranks, factor: float | None) -> Tensor:
        """``CrossEntropyKernel.losses``. Over the ranks travel the largest logits, then both sums together."""
        label_n1, here_n = _own_columns(labels_n, logits_nV.shape[1], ranks.rank)
        largest_n = ranks.largest_of_ranks(self.largest(logits_nV))
        exponentials_n, label_n = ranks.sum_of_ranks(self.sums(logits_nV, largest_n, label_n1, here_n))
        log_n = exponentials_n.log()
        if factor is not None:
            self.differentiate(logits_nV, log_n + largest_n, label_n1, here_n, factor)
        return log_n - label_n


def _own_columns(labels_n: Tensor, columns: int, rank: int) -> tuple[Tensor, Tensor]:
    """(the label's column [n, 1] in this rank's part of the vocabulary, whether it lies there [n] as 0 or 1)."""
    own_n = labels_n - rank * columns
    here_n = (own_n >= 0) & (own_n < columns)
    return own_n.clamp(0, columns - 1)[:, None], here_n.float()


def _largest(logits_nV: Tensor) -> Tensor:
    return logits_nV.amax(-1).float()


def _sums(logits_nV: Tensor, largest_n: Tensor, label_n1: Tensor, here_n: Tensor) -> Tensor:
    sums_2n = torch.empty(2, len(logits_nV), dtype=torch.float32, device=logits_nV.device)
    for rows in slices(len(logits_nV), piece_rows(logits_nV.shape[1], logits_nV.device.type == "cpu")):
        shifted_pV = logits_nV[rows] - largest_n[rows, None]  # fp32 or better
        sums_2n[1, rows] = shifted_pV.gather(1, label_n1[rows])[:, 0] * here_n[rows]
        sums_2n[0, rows] = shifted_pV.exp_().sum(-1)
    return sums_2n


def _differentiate(logits_nV: Tensor, logsumexp_n: Tensor, label_n1: Tensor, here_n: Tensor, factor: float) -> None:
    for rows in slices(len(logits_nV), piece_rows(logits_nV.shape[1], logits_nV.device.type == "cpu")):
        gradient_pV = (logits_nV[rows] - logsumexp_n[rows, None]).exp_()
        gradient_pV.scatter_add_(1, label_n1[rows], -here_n[rows, None].to(gradient_pV.dtype))
        logits_nV[rows] = gradient_pV.mul_(factor)


def _fusable_sums(logits_nV: Tensor, largest_n: Tensor, label_n1: Tensor, here_n: Tensor) -> Tensor:
    label_n = (logits_nV.gather(1, label_n1)[:, 0] - largest_n) * here_n
    return torch.stack([(logits_nV - largest_n[:, None]).exp().sum(-1), label_n]).float()


def _fusable_differentiate(
    logits_nV: Tensor, logsumexp_n: Tensor, label_n1: Tensor, here_n: Tensor, factor: float
) -> None:
    is_label_nV = torch.arange(logits_nV.shape[1], device=logits_nV.device) == label_n1
    probability_nV = (logits_nV - logsumexp_n[:, None]).exp()
    logits_nV.copy_((probability_nV - is_label_nV * here_n[:, None]) * factor)


WRITTEN = CrossEntropyKernel("written", ANYWHERE, _Passes(_largest, _sums, _differentiate).losses)
COMPILED = CrossEntropyKernel(
    "compiled",
    ANYWHERE,
    _Passes(_largest, Compiled(_fusable_sums), Compiled(_fusable_differentiate)).losses,
)
