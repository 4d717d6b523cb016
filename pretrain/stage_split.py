"""Where the list of layers is cut into pipeline stages.

In: layer definitions with their costs. Out: the first layer of every stage. Always: pure arithmetic, so that plans and
checks cut as the training does, without DeepSpeed.
"""

import functools
from collections.abc import Sequence

from common.errors import InputError
from model.layers import LayerDefinition


def split_into_stages(layers: Sequence[LayerDefinition], stages: int) -> list[int]:
    """The first layer of every stage and the number of layers, as in ``[0, 4, 8]`` for two stages.

    Among all contiguous splits that leave a block on every stage, the one whose most expensive stage is cheapest; ties
    go to the split with the earlier cuts. Dynamic programming over (stages, cut).

    Raises:
        InputError: fewer blocks than stages.
    """
    blocks = [layer.name.startswith("blocks.") for layer in layers]
    if sum(blocks) < stages:
        raise InputError(
            f"parallel.pipeline: every stage needs a block, and {sum(blocks)} blocks (model.num_layers) "
            f"cannot fill {stages} stages; at most {sum(blocks)} fit"
        )

    @functools.cache
    def best(start: int, remaining: int) -> tuple[float, tuple[int, ...]]:
        if remaining == 1:
            valid = any(blocks[start:])
            return (sum(layer.cost for layer in layers[start:]) if valid else float("inf")), (len(layers),)
        candidates = []
        for stop in range(start + 1, len(layers)):
            if any(blocks[start:stop]):
                cost, cuts = best(stop, remaining - 1)
                candidates.append((max(sum(layer.cost for layer in layers[start:stop]), cost), (stop, *cuts)))
        return min(candidates, default=(float("inf"), ()))

    return [0, *best(0, stages)[1]]
