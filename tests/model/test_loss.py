"""The loss of each token, and its mean."""

import torch

from model.loss import cross_entropy_TB, mean_loss
from model.parallel import Unsharded


def test_each_token_costs_minus_the_log_of_its_labels_probability():
    logits_TBV = torch.randn(5, 2, 7, generator=torch.Generator().manual_seed(1))
    labels_BT = torch.tensor([[0, 1, 2, 3, 4], [6, 5, 4, 3, 2]])
    loss_TB = cross_entropy_TB(logits_TBV, labels_BT, Unsharded())
    for t in range(5):
        for b in range(2):
            expected = -logits_TBV[t, b].softmax(-1)[labels_BT[b, t]].log()
            torch.testing.assert_close(loss_TB[t, b], expected)
    torch.testing.assert_close(mean_loss(logits_TBV, labels_BT, Unsharded()), loss_TB.mean())


def test_the_loss_of_bf16_logits_is_fp32():
    logits_TBV = torch.zeros(1, 1, 3, dtype=torch.bfloat16)
    loss_TB = cross_entropy_TB(logits_TBV, torch.zeros(1, 1, dtype=torch.int64), Unsharded())
    assert loss_TB.dtype == torch.float32
    torch.testing.assert_close(loss_TB, torch.tensor([[3.0]]).log())
