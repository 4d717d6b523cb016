"""Where the list of layers is cut into pipeline stages.

In: layer definitions with their costs. Out: the first layer of every stage. Always: pure arithmetic, so that plans and
checks cut as the training does, without DeepSpeed.
"""

import math
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

    costs = [layer.cost for layer in layers]
    # best[start]: the cheapest split of layers[start:] into the stages so far, counted from the end.
    best = [sum(costs[start:]) if any(blocks[start:]) else math.inf for start in range(len(layers))]
    stops: list[list[int]] = []
    for _ in range(stages - 1):
        found = [_first_stage(costs, blocks, best, start) for start in range(len(layers))]
        best = [cost for cost, _ in found]
        stops.append([stop for _, stop in found])
    cuts = [0]
    for stop_of in reversed(stops):
        cuts.append(stop_of[cuts[-1]])
    return [*cuts, len(layers)]


def _first_stage(costs: list[float], blocks: list[bool], best: list[float], start: int) -> tuple[float, int]:
    """The cost of layers[start:], and where its first stage stops if layers[stop:] cost ``best[stop]``."""
    cheapest, first, here, has_block = math.inf, len(costs), 0.0, False
    for stop in range(start + 1, len(costs)):
        here += costs[stop - 1]
        has_block = has_block or blocks[stop - 1]
        if here >= cheapest:  # a longer first stage costs more
            break
        if has_block and max(here, best[stop]) < cheapest:
            cheapest, first = max(here, best[stop]), stop
    return cheapest, first
