"""The names that every rank knows are those that real layers record, in the order of the model."""

import pytest
import torch

from model.documents import Documents
from model.layers import LanguageModel, build_layers
from model.parallel import Unsharded
from model.recorder import Recorder
from pretrain.telemetry.names import by_layer, known_numbers, places
from tests.model.helpers import KINDS, tokens


@pytest.mark.parametrize("kind", KINDS)
def test_what_layers_record_is_known_before(kind: str) -> None:
    config, recorder = KINDS[kind], Recorder()
    model = LanguageModel(build_layers(config, Unsharded(), recorder, seed=1))
    recorder.open()
    model((tokens(config), Documents.of(torch.zeros(tokens(config).shape, dtype=torch.int32))))
    recorded = {name: entry.reduce for name, entry in recorder.close().items()}
    known = known_numbers(config)
    assert list(known.items())[: len(recorded)] == list(recorded.items())
    of_parameters = list(known)[len(recorded) :]
    assert {name.split("/")[0].split(".")[-1] for name in of_parameters} == {"gradient_norm", "update_ratio"}


def test_a_parameter_counts_for_its_part_and_its_block() -> None:
    assert places("blocks.12.ffn.up.weight") == ["{}/ffn.up", "blocks.12.{}"]
    assert places("blocks.0.attention.lambda_q1") == ["{}/attention.lambda_q1", "blocks.0.{}"]
    assert places("embedding.weight") == ["{}/embedding"]


def test_blocks_become_one_list_in_their_order() -> None:
    numbers = {f"blocks.{layer}.attention.entropy": float(layer) for layer in range(12)}
    numbers |= {"head.largest_logit": 7.0, "blocks.0.gradient_norm": 0.5, "gradient_norm/ffn.up": 0.25}
    assert by_layer(numbers) == {
        "attention.entropy": [float(layer) for layer in range(12)],
        "head.largest_logit": 7.0,
        "gradient_norm": [0.5],
        "gradient_norm/ffn.up": 0.25,
    }
