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
from torch import Tensor

from model.exchange import InputExchange
from model.kernels.products import product
from model.kernels.rowwise.cross_entropy import piece_rows, slices
from model.prediction import Finish, Prediction

CHUNK_BYTES = 2**28
"""most bytes of the logits of one chunk: large enough for fast products and few passes over the weight's gradient"""


def chunk_rows(columns: int, element_bytes: int) -> int:
    """Tokens whose logits, ``columns`` on this rank, are there at the same time."""
    return max(1, CHUNK_BYTES // (columns * element_bytes))


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
        dx_nD = product(gradient_nV, self.weight_VD.t(), out=None if split else self.dx_ND[rows])
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
        for part in slices(len(self.weight_VD), piece_rows(self.weight_VD.shape[1])):
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
        logits_nV = product(x_nD, prediction.weight_VD)
        prediction.record_largest(logits_nV)
        factor = None if gradients is None else 1 / labels_PN.numel()
        labels_n = labels_PN[:, rows].flatten()
        loss_n = prediction.cross_entropy.losses(logits_nV, labels_n, prediction.sharding, factor)
        loss_PN[:, rows] = loss_n.view(len(labels_PN), -1)
        if gradients is not None:
            gradients.add(rows, x_nD, logits_nV)
        del logits_nV  # before the next chunk's are there
    return loss_PN.flatten()


def _chunks(x_ND: Tensor, parts: int, columns: int, exchange: InputExchange) -> Iterator[tuple[slice, Tensor]]:
    """(rows of each part, these rows of all parts, one part after the other); the next ones are on their way."""
    chunks = list(slices(len(x_ND), max(1, chunk_rows(columns, x_ND.element_size()) // parts)))
    arriving = exchange.gather(x_ND[chunks[0]])
    for rows, following in zip(chunks, [*chunks[1:], None], strict=True):
        x_nD = arriving()
        if following is not None:
            arriving = exchange.gather(x_ND[following])
        yield rows, x_nD
