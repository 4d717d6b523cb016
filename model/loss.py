"""The training loss: cross-entropy of the next token.

In: logits_TBV as the head returns them (this rank's part of the vocabulary) and labels_BT as the data has them.
Out: the loss of each token, or their mean. Always: softmax and loss in fp32; every rank of the tensor-parallel group
gets the same values.
"""

from torch import Tensor

from model.parallel import Sharding


def cross_entropy_TB(logits_TBV: Tensor, labels_BT: Tensor, sharding: Sharding) -> Tensor:
    """-log p(label) of each token in nats, fp32 [T, B]."""
    return sharding.cross_entropy(logits_TBV, labels_BT.t().contiguous())


def mean_loss(logits_TBV: Tensor, labels_BT: Tensor, sharding: Sharding) -> Tensor:
    """Mean of ``cross_entropy_TB`` over all tokens of the micro-batch, a scalar."""
    return cross_entropy_TB(logits_TBV, labels_BT, sharding).mean()
