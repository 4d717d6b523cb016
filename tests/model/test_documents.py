"""Document attention: a packed sequence computes what its documents compute alone, forward and backward."""

import itertools

import pytest
import torch

from model.documents import Documents
from tests.model.helpers import KINDS, assert_close, build, spread, tokens

BOUNDS = [0, 1, 5, 12]


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_documents_packed_equal_documents_alone(config):
    model = build(config)
    spread(model)
    tokens_BT = tokens(config, length=BOUNDS[-1])
    starts_T = torch.zeros(BOUNDS[-1], dtype=torch.int32)
    for start, end in itertools.pairwise(BOUNDS):
        starts_T[start:end] = start
    packed_TBV = model((tokens_BT, Documents.of(starts_T.expand(2, -1))))
    alone_TBV = torch.cat([model(tokens_BT[:, a:b]) for a, b in itertools.pairwise(BOUNDS)])

    assert_close(packed_TBV, alone_TBV, 1e-12, "logits")
    parameters = list(model.parameters())
    direction_TBV = torch.randn(packed_TBV.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = zip(
        torch.autograd.grad((packed_TBV * direction_TBV).sum(), parameters),
        torch.autograd.grad((alone_TBV * direction_TBV).sum(), parameters),
        strict=True,
    )
    for found, expected in gradients:
        assert_close(found, expected, 1e-10, "gradient")


def test_each_sequence_of_a_batch_has_its_own_documents():
    model = build(KINDS["shared_diff-layer-layer"])
    tokens_BT = tokens(KINDS["shared_diff-layer-layer"], length=8)
    starts_BT = torch.tensor([[0] * 8, [0] * 3 + [3] * 5], dtype=torch.int32)
    packed_TBV = model((tokens_BT, Documents.of(starts_BT)))
    whole_TBV = model(tokens_BT)
    assert_close(packed_TBV[:, 0], whole_TBV[:, 0], 1e-12, "undivided sequence")
    assert_close(packed_TBV[3:, 1], model(tokens_BT[1:, 3:])[:, 0], 1e-12, "second document")
    assert not torch.allclose(packed_TBV[3:, 1], whole_TBV[3:, 1])
