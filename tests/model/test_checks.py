"""A model that does not split over the tensor-parallel group is refused by name, with values that work."""

import dataclasses

import pytest

from common.errors import InputError
from model.checks import check_model, check_split
from model.config import ModelConfig

CONFIG = ModelConfig(num_heads=8, head_dim=24, ffn_hidden_size=96, vocab_size=800)


def refusal(config=CONFIG, tensor_size=4, sequence_parallel=False, sequence_length=256) -> str:
    with pytest.raises(InputError) as error:
        check_split(
            config, tensor_size=tensor_size, sequence_parallel=sequence_parallel, sequence_length=sequence_length
        )
    return str(error.value)


@pytest.mark.parametrize("tensor_size", [1, 2, 4, 8])
def test_what_divides_is_accepted(tensor_size):
    check_split(CONFIG, tensor_size=tensor_size, sequence_parallel=tensor_size > 1, sequence_length=256)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"num_heads": 14},
            "model.num_heads: 14 cannot be split over parallel.tensor 4; nearest: model.num_heads 12 or 16",
        ),
        (
            {"head_dim": 22},
            "model.head_dim: 22 cannot be split over parallel.tensor 4; nearest: model.head_dim 20 or 24",
        ),
        ({"ffn_hidden_size": 98}, "model.ffn_hidden_size: 98 cannot be split over parallel.tensor 4"),
        (
            {"vocab_size": 801},
            "model.vocab_size: 801 cannot be split over parallel.tensor 4; nearest: model.vocab_size 800",
        ),
        ({"attention": "diff_v2", "num_kv_heads": 2}, "model.num_kv_heads: 2 cannot be split over parallel.tensor 4"),
    ],
)
def test_the_setting_is_named_with_its_nearest_valid_values(changes, expected):
    assert expected in refusal(dataclasses.replace(CONFIG, **changes))


def test_the_nearest_tensor_sizes_are_named_too():
    assert refusal(dataclasses.replace(CONFIG, num_heads=14)).endswith("or parallel.tensor 2")
    assert refusal(CONFIG, tensor_size=3).endswith("or parallel.tensor 2 or 4")


def test_the_head_dimension_matters_only_where_the_shared_base_is_split_over_it():
    for changes in ({"base": "head"}, {"attention": "diff"}, {"attention": "standard"}):
        config = dataclasses.replace(CONFIG, head_dim=22, **changes)
        check_split(config, tensor_size=4, sequence_parallel=False, sequence_length=256)


def test_the_sequence_matters_only_under_sequence_parallelism():
    assert "data.sequence_length: 255 cannot be split" in refusal(sequence_parallel=True, sequence_length=255)
    check_split(CONFIG, tensor_size=4, sequence_parallel=False, sequence_length=255)


def test_sequence_parallelism_needs_a_group():
    assert "parallel.sequence" in refusal(tensor_size=1, sequence_parallel=True)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"attention": "diff_v3"},
            "model.attention: expected one of standard, diff, shared_diff, diff_v2, is 'diff_v3'; did you mean 'diff",
        ),
        ({"attention": "standard", "num_kv_heads": 3}, "model.num_kv_heads: must divide the 2 x model.num_heads heads"),
        ({"attention": "diff", "num_kv_heads": 3}, "model.num_kv_heads: must divide model.num_heads, so that both"),
        ({"attention": "shared_diff", "num_kv_heads": 16}, "model.num_kv_heads: must divide model.num_heads"),
        (
            {"attention": "diff_v2", "num_kv_heads": 3},
            "model.num_kv_heads: must divide model.num_heads, so that the",
        ),
    ],
)
def test_a_model_that_no_kind_can_be_is_named(settings, expected):
    with pytest.raises(InputError) as error:
        check_model(dataclasses.replace(CONFIG, **settings))
    assert str(error.value).startswith(expected)


def test_a_standard_model_groups_its_plain_heads_of_which_it_has_twice_as_many():
    check_model(dataclasses.replace(CONFIG, attention="standard", num_kv_heads=16))
