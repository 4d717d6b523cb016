"""Rotary positions: relative, restarting at documents, precise."""

import torch

from model.kernels.rowwise.rotary import WRITTEN as rotate
from model.rope import positions_TB, rotary_angles


def test_scores_depend_on_the_distance_only():
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    angles = rotary_angles(torch.arange(20)[:, None], 8, 10000.0, torch.float64)
    queries, keys = (rotate(x.expand(20, 1, 8), angles)[:, 0] for x in (q, k))
    scores = queries @ keys.T
    for distance in range(5):
        along = scores.diagonal(-distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=0, atol=1e-12)
    assert not torch.allclose(scores.diagonal(0)[0], scores.diagonal(-1)[0])


def test_position_zero_is_not_rotated():
    x = torch.randn(1, 2, 3, 8)
    assert torch.equal(rotate(x, rotary_angles(torch.zeros(1, 1), 8, 10000.0, x.dtype)), x)


def test_positions_restart_at_document_starts():
    starts_TB = torch.tensor([[0, 0], [0, 1], [2, 1], [2, 1]], dtype=torch.int32)
    assert positions_TB(4, starts_TB, starts_TB.device).tolist() == [[0, 0], [1, 0], [0, 1], [1, 2]]
    assert positions_TB(3, None, torch.device("cpu")).tolist() == [[0], [1], [2]]


def test_angles_of_bf16_activations_are_fp32():
    cos, sin = rotary_angles(torch.tensor([[4097]]), 8, 10000.0, torch.bfloat16)
    assert cos.dtype == sin.dtype == torch.float32
    assert abs(float(cos[0, 0, 0]) - float(torch.tensor(4097.0, dtype=torch.float64).cos())) < 1e-6
    assert rotate(torch.ones(1, 1, 8, dtype=torch.bfloat16), (cos, sin)).dtype == torch.bfloat16
