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
    assert documents.keys.begins.tolist() == [0, 4, 11, 20, 22]
    assert documents.keys.begins.dtype == torch.int32
    assert documents.keys.numbers == (0, 4, 11, 20, 22)
    assert documents.keys.longest == 9
    assert documents.ends_TB.t().tolist() == [[4] * 4 + [11] * 7, [9] * 9 + [11] * 2]
    assert documents.ends_TB.dtype == torch.int32


def test_without_a_border_every_sequence_is_a_document():
    documents = Documents.of(torch.zeros(3, 7, dtype=torch.int32))
    assert (documents.keys.begins.tolist(), documents.keys.longest) == ([0, 7, 14, 21], 7)


def test_a_part_has_its_own_queries_and_the_keys_up_to_its_end():
    """Of documents [0, 4), [4, 11) and [0, 9), [9, 11) the tokens 5 to 9: none of the first one's are queries."""
    part = Documents.of(STARTS_BT).part(5, 10)
    assert part.starts_TB.t().tolist() == [[4] * 5, [0] * 4 + [9]]
    assert part.ends_TB.t().tolist() == [[4] * 4 + [10] * 6, [9] * 9 + [10]]
    assert (part.keys.numbers, part.keys.longest) == ((0, 4, 10, 19, 20), 9)
    assert (part.queries.numbers, part.queries.longest) == ((0, 0, 5, 9, 10), 5)
    for bounds in (part.keys, part.queries):
        assert bounds.begins.dtype == torch.int32 and bounds.begins.tolist() == list(bounds.numbers)
    mask = part.additive_mask(torch.float32)
    assert mask.shape == (2, 1, 5, 10)
    assert torch.equal(mask, Documents.of(STARTS_BT).additive_mask(torch.float32)[:, :, 5:10, :10])


def test_a_part_knows_no_document_behind_it():
    part = Documents.of(STARTS_BT).part(1, 4)
    assert (part.keys.numbers, part.queries.numbers) == ((0, 4, 8), (0, 3, 6))


def test_all_tokens_are_a_part_that_changes_nothing():
    whole = Documents.of(STARTS_BT)
    part = whole.part(0, 11)
    assert part.keys.numbers == part.queries.numbers == whole.keys.numbers
    assert torch.equal(part.starts_TB, whole.starts_TB) and torch.equal(part.ends_TB, whole.ends_TB)


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
