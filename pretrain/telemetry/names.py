"""The names of all numbers of a run, known to every rank without asking another.

In: a ModelConfig. Out: each name and how its values become one number, in the order of the model. Always: the layers
themselves say what they record: the plain model runs once on the meta device, where nothing is computed. So a number
that a layer begins to record is known here, and a stage of the pipeline knows what the others record.

A name is a place and what is measured there, as in "blocks.3.attention.entropy". Of parameters, the gradient norm and
the ratio of update to weight are known for each block, and over all blocks for each part of the model, as in
"gradient_norm/attention.query" or "update_ratio/embedding".
"""

import re

import torch

from model.config import ModelConfig
from model.layers import LanguageModel, build_layers
from model.parallel import Unsharded, logical_parameters
from model.recorder import Recorder, Reduce

GRADIENT_NORM = "gradient_norm"
UPDATE_RATIO = "update_ratio"
OF_PARAMETERS: dict[str, Reduce] = {GRADIENT_NORM: "norm", UPDATE_RATIO: "rms"}
BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def known_numbers(model: ModelConfig) -> dict[str, Reduce]:
    """Every name of the model, and how its values become one number."""
    recorder = Recorder()
    whole = LanguageModel(build_layers(model, Unsharded(), recorder, seed=0, device="meta"))
    recorder.open()
    with torch.no_grad():
        whole(torch.zeros(1, 2, dtype=torch.int64, device="meta"))
    numbers = {name: entry.reduce for name, entry in recorder.close().items()}
    parameters = logical_parameters(whole)
    for name in dict.fromkeys(place for parameter in parameters for place in places(parameter)):
        numbers |= {name.format(what): reduce for what, reduce in OF_PARAMETERS.items()}
    return numbers


def places(parameter: str) -> list[str]:
    """Under which names a parameter counts, with {} for what is measured: its part, and its block if it is in one."""
    block = BLOCK.fullmatch(parameter)
    part = (block[2] if block else parameter).removesuffix(".weight")
    return [f"{{}}/{part}", *([f"blocks.{block[1]}.{{}}"] if block else [])]


def by_layer(numbers: dict[str, float]) -> dict[str, float | list[float]]:
    """The numbers of the same name of all blocks as one list, from the first block to the last; others as they are."""
    found: dict[str, float | list[float]] = {}
    for name, number in numbers.items():
        block = BLOCK.fullmatch(name)
        if block is None:
            found[name] = number
            continue
        layers = found.setdefault(block[2], [])
        assert isinstance(layers, list)
        layers.append(number)
    return found
