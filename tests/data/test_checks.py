"""The tokens of a run agree with its model and with each other: the plan and the training refuse the same."""

import dataclasses
import re
from pathlib import Path

import pytest

from common.errors import InputError
from data.config import DataConfig, SourceConfig
from data.outlook import outlook_of
from data.run_order import ModelOrder, RunOrder
from model.config import ModelConfig
from pretrain.config import RunConfig
from pretrain.run_data import open_data
from tests.data.helpers import random_tokens, write_dataset


def test_the_plan_and_the_training_refuse_in_the_same_words(tmp_path: Path) -> None:
    train = write_dataset(tmp_path / "train", [random_tokens(700, 1)], vocab_size=1100)
    other = write_dataset(tmp_path / "other", [random_tokens(700, 2)], vocab_size=1100, fingerprint="0" * 64)
    fitting = DataConfig([SourceConfig(str(train))], str(train), sequence_length=23)
    for data, vocab_size, said in (
        (fitting, 1099, "model.vocab_size: is 1099, but the tokens of .* need at least 1100$"),
        (
            dataclasses.replace(fitting, validation=str(other)),
            1100,
            "data.validation: .*other was tokenized by another tokenizer than data.train; prepare both with the same",
        ),
    ):
        (problem,) = outlook_of(RunOrder(data=data, model=ModelOrder(vocab_size))).problems
        assert re.match(said, problem)
        with pytest.raises(InputError, match=said):
            open_data(RunConfig(data=data, model=ModelConfig(vocab_size=vocab_size)))
    assert outlook_of(RunOrder(data=fitting, model=ModelOrder(1100))).problems == []
    open_data(RunConfig(data=fitting, model=ModelConfig(vocab_size=1100)))


def test_what_a_config_leaves_out_means_the_same_to_both() -> None:
    order, run = dataclasses.asdict(RunOrder()), dataclasses.asdict(RunConfig())
    assert order.pop("json") is False
    for name, value in order.items():
        if isinstance(value, dict):
            assert value.items() <= run[name].items()
        else:
            assert value == run[name]
