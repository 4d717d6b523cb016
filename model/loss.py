"""The training loss: cross-entropy of the next token, without ever holding the logits whole.

In: a Prediction and labels_BT as the data has them. Out: the loss of each token, or their mean with its gradients.
Always: softmax in fp32 or better, loss in fp32; every rank of the tensor-parallel group gets the same values; logits
exist for one chunk of tokens at a time, of at most CHUNK_BYTES.

The gradients of the mean are computed in the forward pass, while a chunk's logits are there: they are known up to one
factor, which the backward pass multiplies in. So no product is computed twice. Per chunk, with this rank's V/t columns:

    logits = x W^T          loss = log sum exp(logits) - logits[label]
    g = (softmax(logits) - onehot(label)) / tokens          dx = g W          dW += g^T x
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.parallel import Sharding
from model.prediction import Finish, Prediction

CHUNK_BYTES = 2**28
"""most bytes of the logits of one chunk: large enough for fast products and few passes over the weight's gradient"""
PIECE_ELEMENTS = 2**22
"""elements of what is worked on in fp32 at once: a GPU is busy with them, and its cache holds them"""


def chunk_rows(columns: int, element_bytes: int) -> int:
    """Tokens whose logits, ``columns`` on this rank, are there at the same time."""
    return max(1, CHUNK_BYTES // (columns * element_bytes))


def piece_rows(columns: int) -> int:
    """Rows of ``columns`` elements that are worked on in fp32 at the same time."""
    return max(1, PIECE_ELEMENTS // columns)


def mean_loss(labels_BT: Tensor) -> Finish:
    """Makes of a prediction the mean of -log p(label) over all tokens of the micro-batch: nats, a scalar in fp32.

    Its backward pass can run once: it multiplies gradients in place that the forward pass has left.
    """

    def finish(prediction: Prediction) -> Tensor:
        loss = _MeanLoss.apply(prediction.x_TBD, prediction.weight_VD, labels_BT, prediction, torch.is_grad_enabled())
        assert isinstance(loss, Tensor)
        return loss

    return finish


def cross_entropy_TB(labels_BT: Tensor) -> Finish:
    """Makes of a prediction -log p(label) of each token: nats, fp32 [T, B]. Without gradients: for evaluation."""

    def finish(prediction: Prediction) -> Tensor:
        with torch.no_grad():
            return _losses(prediction, labels_BT, None).view_as(labels_BT.t())

    return finish


class _Gradients:
    """Gradients of the mean loss, added up chunk by chunk.

    The weight's is added up in fp32 where there is more than one chunk: sums in bf16 would lose what is small.
    """

    def __init__(self, x_ND: Tensor, weight_VD: Tensor) -> None:
        self.x_ND, self.weight_VD = x_ND, weight_VD
        self.dx_ND = torch.empty_like(x_ND)
        self.dweight_VD: Tensor | None = None

    def add(self, rows: slice, gradient_nV: Tensor) -> None:
        """Takes the gradient of the logits of ``rows``."""
        x_nD = self.x_ND[rows]
        torch.mm(gradient_nV, self.weight_VD, out=self.dx_ND[rows])
        if len(x_nD) == len(self.x_ND):
            self.dweight_VD = gradient_nV.t() @ x_nD
            return
        precise = torch.promote_types(x_nD.dtype, torch.float32)
        if self.dweight_VD is None:
            self.dweight_VD = torch.zeros_like(self.weight_VD, dtype=precise)
        for part in _slices(len(self.weight_VD), piece_rows(self.weight_VD.shape[1])):
            if precise == x_nD.dtype:
                self.dweight_VD[part].addmm_(gradient_nV[:, part].t(), x_nD)
            else:
                self.dweight_VD[part] += gradient_nV[:, part].t() @ x_nD

    def dweight(self) -> Tensor:
        """Of all rows, in the weight's type."""
        assert self.dweight_VD is not None
        return self.dweight_VD.to(self.weight_VD.dtype)


class _MeanLoss(torch.autograd.Function):
    """(x_TBD, weight_VD) to the mean loss, with the gradients of both."""

    @staticmethod
    def forward(
        ctx: Any, x_TBD: Tensor, weight_VD: Tensor, labels_BT: Tensor, prediction: Prediction, differentiate: bool
    ) -> Tensor:
        gradients = _Gradients(x_TBD.flatten(0, 1), weight_VD) if differentiate else None
        loss_N = _losses(prediction, labels_BT, gradients)
        if gradients is not None:
            ctx.save_for_backward(gradients.dx_ND.view_as(x_TBD), gradients.dweight())
        return loss_N.mean()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        dx_TBD, dweight_VD = ctx.saved_tensors
        return dx_TBD.mul_(outer[0]), dweight_VD.mul_(outer[0]), None, None, None


def _losses(prediction: Prediction, labels_BT: Tensor, gradients: _Gradients | None) -> Tensor:
    """The loss of each token, [T B] in fp32; adds the gradients of their mean to ``gradients``."""
    x_ND, labels_N = prediction.x_TBD.flatten(0, 1), labels_BT.t().flatten()
    loss_N = torch.empty(len(labels_N), dtype=torch.float32, device=x_ND.device)
    columns = len(prediction.weight_VD)
    for rows in _slices(len(labels_N), chunk_rows(columns, x_ND.element_size())):
        logits_nV = F.linear(x_ND[rows], prediction.weight_VD)
        prediction.record_largest(logits_nV)
        label_n1, here_n = _own_columns(labels_N[rows], columns, prediction.sharding)
        loss_N[rows], logsumexp_n = _row_sums(logits_nV, label_n1, here_n, prediction.sharding)
        if gradients is not None:
            _differentiate(logits_nV, label_n1, here_n, logsumexp_n, 1 / len(labels_N))
            gradients.add(rows, logits_nV)
        del logits_nV  # before the next chunk's are there
    return loss_N


def _own_columns(labels_n: Tensor, columns: int, sharding: Sharding) -> tuple[Tensor, Tensor]:
    """(the label's column [n, 1] in this rank's part of the vocabulary, whether it lies there [n] as 0 or 1)."""
    own_n = labels_n - sharding.rank * columns
    here_n = (own_n >= 0) & (own_n < columns)
    return own_n.clamp(0, columns - 1)[:, None], here_n.float()


def _row_sums(logits_nV: Tensor, label_n1: Tensor, here_n: Tensor, sharding: Sharding) -> tuple[Tensor, Tensor]:
    """Of each row, over the whole vocabulary: (-log p(label), log sum exp), fp32 [n] each.

    Over the ranks travel the largest logit, and together the sum of exponentials and the label's logit.
    """
    largest_n = sharding.largest_of_ranks(logits_nV.amax(-1).float())
    sums_2n = torch.empty(2, len(logits_nV), dtype=torch.float32, device=logits_nV.device)
    for rows in _slices(len(logits_nV), piece_rows(logits_nV.shape[1])):
        shifted_pV = logits_nV[rows] - largest_n[rows, None]  # fp32 or better
        sums_2n[1, rows] = shifted_pV.gather(1, label_n1[rows])[:, 0] * here_n[rows]
        sums_2n[0, rows] = shifted_pV.exp_().sum(-1)
    exponentials_n, label_n = sharding.sum_of_ranks(sums_2n)
    log_n = exponentials_n.log()
    return log_n - label_n, log_n + largest_n


def _differentiate(logits_nV: Tensor, label_n1: Tensor, here_n: Tensor, logsumexp_n: Tensor, factor: float) -> None:
    """Overwrites logits with ``factor`` times the gradient of their rows' losses."""
    for rows in _slices(len(logits_nV), piece_rows(logits_nV.shape[1])):
        gradient_pV = (logits_nV[rows] - logsumexp_n[rows, None]).exp_()
        gradient_pV.scatter_add_(1, label_n1[rows], -here_n[rows, None].to(gradient_pV.dtype))
        logits_nV[rows] = gradient_pV.mul_(factor)


def _slices(length: int, step: int) -> Iterator[slice]:
    """Cuts ``length`` into slices of ``step``; the last one may be shorter."""
    return (slice(first, min(first + step, length)) for first in range(0, length, step))
