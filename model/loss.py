"""The training loss: cross-entropy of the next token, without ever holding the logits whole.

In: a Prediction and labels_BT as the data has them. Out: the loss of each token, or their mean with its gradients.
Always: softmax in fp32 or better, loss in fp32; every rank of the tensor-parallel group gets the same values; logits
exist for one chunk of tokens at a time, of at most CHUNK_BYTES.

The gradients of the mean are computed in the forward pass, while a chunk's logits are there: they are known up to one
factor, which the backward pass multiplies in. So no product is computed twice. Per chunk, with this rank's V/t columns:

    logits = x W^T          loss = log sum exp(logits) - logits[label]
    g = (softmax(logits) - onehot(label)) / tokens          dx = g W          dW += g^T x

A chunk has equally many tokens of each rank's part of the sequence. While one chunk is worked on, the next one's x is
gathered; the ranks' dx are summed while dW is computed.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.exchange import InputExchange
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

    def __init__(self, x_ND: Tensor, weight_VD: Tensor, exchange: InputExchange) -> None:
        self.x_ND, self.weight_VD = x_ND, weight_VD
        self.dx_ND = torch.empty_like(x_ND)
        self.dweight_VD: Tensor | None = None
        self._exchange = exchange

    def add(self, rows: slice, x_nD: Tensor, gradient_nV: Tensor) -> None:
        """Takes the gradient of the logits of ``x_nD``, which is ``rows`` of each rank's part."""
        split = self._exchange.gathers
        dx_nD = torch.mm(gradient_nV, self.weight_VD, out=None if split else self.dx_ND[rows])
        reduced = self._exchange.reduce(dx_nD)
        self._add_to_dweight(x_nD, gradient_nV, of_everything=rows == slice(0, len(self.x_ND)))
        dx_nD = reduced()
        if split:
            self.dx_ND[rows] = dx_nD

    def dweight(self) -> Tensor:
        """Of all rows, in the weight's type."""
        assert self.dweight_VD is not None
        return self.dweight_VD.to(self.weight_VD.dtype)

    def _add_to_dweight(self, x_nD: Tensor, gradient_nV: Tensor, of_everything: bool) -> None:
        if of_everything:
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


class _MeanLoss(torch.autograd.Function):
    """(x_TBD, weight_VD) to the mean loss, with the gradients of both."""

    @staticmethod
    def forward(
        ctx: Any, x_TBD: Tensor, weight_VD: Tensor, labels_BT: Tensor, prediction: Prediction, differentiate: bool
    ) -> Tensor:
        exchange = prediction.sharding.exchange
        gradients = _Gradients(x_TBD.flatten(0, 1), weight_VD, exchange) if differentiate else None
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
    x_ND, columns = prediction.x_TBD.flatten(0, 1), len(prediction.weight_VD)
    labels_PN = labels_BT.t().reshape(-1, len(x_ND))  # P parts of the sequence
    loss_PN = torch.empty(labels_PN.shape, dtype=torch.float32, device=x_ND.device)
    for rows, x_nD in _chunks(x_ND, len(labels_PN), columns, prediction.sharding.exchange):
        logits_nV = F.linear(x_nD, prediction.weight_VD)
        prediction.record_largest(logits_nV)
        label_n1, here_n = _own_columns(labels_PN[:, rows].flatten(), columns, prediction.sharding)
        loss_n, logsumexp_n = _row_sums(logits_nV, label_n1, here_n, prediction.sharding)
        loss_PN[:, rows] = loss_n.view(len(labels_PN), -1)
        if gradients is not None:
            _differentiate(logits_nV, label_n1, here_n, logsumexp_n, 1 / labels_PN.numel())
            gradients.add(rows, x_nD, logits_nV)
        del logits_nV  # before the next chunk's are there
    return loss_PN.flatten()


def _chunks(x_ND: Tensor, parts: int, columns: int, exchange: InputExchange) -> Iterator[tuple[slice, Tensor]]:
    """(rows of each part, these rows of all parts, one part after the other); the next ones are on their way."""
    chunks = list(_slices(len(x_ND), max(1, chunk_rows(columns, x_ND.element_size()) // parts)))
    arriving = exchange.gather(x_ND[chunks[0]])
    for rows, following in zip(chunks, [*chunks[1:], None], strict=True):
        x_nD = arriving()
        if following is not None:
            arriving = exchange.gather(x_ND[following])
        yield rows, x_nD


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
