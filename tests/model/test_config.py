"""A model that cannot be is refused in one line that names the setting."""

import pytest

from common.errors import InputError
from model.config import ModelConfig


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_heads": 0}, "model.num_heads: must be at least 1, is 0"),
        ({"head_dim": 31}, "model.head_dim: must be even for rotary positions, is 31"),
        ({"lambda_init": 1.0}, "model.lambda_init: must be 'default' or in [0, 1), is 1.0"),
        ({"norm_eps": 0.0}, "model.norm_eps: must be at least 1e-30, is 0.0"),
        ({"num_kv_heads": 0}, "model.num_kv_heads: must be at least 1, is 0"),
    ],
)
def test_impossible_settings_are_named(settings, expected):
    with pytest.raises(InputError) as error:
        ModelConfig(**settings)
    assert str(error.value).startswith(expected)


def test_lambda_init_grows_with_depth_or_is_one_number():
    config = ModelConfig()
    assert config.lambda_init_of(0) == pytest.approx(0.2)
    assert config.lambda_init_of(1) == pytest.approx(0.3555, abs=1e-4)
    assert config.lambda_init_of(1000) == pytest.approx(0.8)
    assert ModelConfig(lambda_init=0.5).lambda_init_of(7) == 0.5
