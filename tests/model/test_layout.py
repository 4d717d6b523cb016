"""What is known of a micro-batch's positions and documents before its first layer runs."""

import itertools

import torch

from model.config import ModelConfig
from model.documents import Documents
from model.layers import LanguageModel
from model.layout import Layout
from model.rope import rotary_angles
from tests.model.helpers import CPU, KINDS, TINY, build, tokens

STARTS_BT = torch.tensor([[0] * 4 + [4] * 7, [0] * 9 + [9] * 2], dtype=torch.int32)


def test_documents_are_what_a_variable_length_kernel_reads():
    documents = Documents.of(STARTS_BT)
    assert torch.equal(documents.starts_TB, STARTS_BT.t())
    assert documents.bounds.tolist() == [0, 4, 11, 20, 22]
    assert documents.bounds.dtype == torch.int32
    assert documents.borders == (0, 4, 11, 20, 22)
    assert documents.longest == 9
    assert documents.ends_TB.t().tolist() == [[4] * 4 + [11] * 7, [9] * 9 + [11] * 2]
    assert documents.ends_TB.dtype == torch.int32


def test_without_a_border_every_sequence_is_a_document():
    documents = Documents.of(torch.zeros(3, 7, dtype=torch.int32))
    assert (documents.bounds.tolist(), documents.longest) == ([0, 7, 14, 21], 7)


def test_the_mask_shows_earlier_tokens_of_the_same_document():
    documents = Documents.of(STARTS_BT).masked(torch.bfloat16)
    assert documents.mask is not None and documents.mask.dtype == torch.bfloat16
    for b, i, j in itertools.product(range(2), range(11), range(11)):
        assert documents.mask[b, 0, i, j] == (0.0 if STARTS_BT[b, i] <= j <= i else -torch.inf)


def test_a_layout_has_the_angles_of_positions_inside_documents():
    config, like = ModelConfig(**TINY), torch.empty(0, dtype=torch.float64)
    layout = Layout.of(config, 11, Documents.of(STARTS_BT), like, CPU)
    positions_TB = torch.tensor([[*range(4), *range(7)], [*range(9), *range(2)]]).t()
    for found, expected in zip(layout.angles, rotary_angles(positions_TB, 8, 10000.0, like.dtype), strict=True):
        assert torch.equal(found, expected)
    assert Layout.of(config, 5, None, like, CPU).angles[0].shape == (5, 1, 4)


def test_all_layers_of_a_forward_pass_share_one_layout():
    config = KINDS["shared_diff-layer-layer"]
    model: LanguageModel = build(config, dtype=torch.float32)
    seen = []
    for name, layer in model.layers.items():
        if name.startswith("blocks_"):
            layer.attention.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    model((tokens(config, 2, 11), Documents.of(STARTS_BT)))
    assert len(seen) == config.num_layers > 1
    assert all(layout is seen[0] for layout in seen)
