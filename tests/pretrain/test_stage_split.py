"""Where layers are cut into stages, against every possible split."""

import random
import time
from dataclasses import dataclass
from itertools import combinations, pairwise

import pytest

from common.errors import InputError
from pretrain.stage_split import split_into_stages


@dataclass(frozen=True)
class Layer:
    name: str
    cost: float


def by_trying_all(layers: list[Layer], stages: int) -> float:
    """The cost of the cheapest split that leaves a block on every stage."""
    splits = ([0, *cuts, len(layers)] for cuts in combinations(range(1, len(layers)), stages - 1))
    return min(most_expensive(layers, cuts) for cuts in splits)


def most_expensive(layers: list[Layer], cuts: list[int]) -> float:
    parts = [layers[first:stop] for first, stop in pairwise(cuts)]
    if not all(any(layer.name.startswith("blocks.") for layer in part) for part in parts):
        return float("inf")
    return max(sum(layer.cost for layer in part) for part in parts)


@pytest.mark.parametrize("stages", [1, 2, 3, 5])
def test_no_split_is_cheaper(stages: int) -> None:
    draw = random.Random(stages)
    for _ in range(40):
        blocks = [Layer(f"blocks.{n}", draw.choice([1.0, 2.0, 2.5])) for n in range(draw.randint(stages, 9))]
        layers = [Layer("embedding", draw.choice([0.0, 3.0])), *blocks, Layer("norm", 0.0), Layer("head", 4.5)]
        cuts = split_into_stages(layers, stages)  # type: ignore[arg-type]
        assert cuts == sorted(set(cuts))
        assert (cuts[0], cuts[-1], len(cuts)) == (0, len(layers), stages + 1)
        assert most_expensive(layers, cuts) == by_trying_all(layers, stages)


def test_ties_go_to_the_earlier_cut() -> None:
    layers = [Layer(f"blocks.{n}", 1.0) for n in range(5)]
    assert split_into_stages(layers, 3) == [0, 1, 3, 5]  # type: ignore[arg-type]


def test_many_stages_take_no_time() -> None:
    layers = [Layer(f"blocks.{n}", 1.0) for n in range(256)]
    started = time.monotonic()
    assert split_into_stages(layers, 128) == list(range(0, 257, 2))  # type: ignore[arg-type]
    assert time.monotonic() - started < 10


def test_fewer_blocks_than_stages_are_refused() -> None:
    with pytest.raises(InputError, match=r"1 blocks .* cannot fill 2 stages"):
        split_into_stages([Layer("embedding", 1.0), Layer("blocks.0", 1.0)], 2)  # type: ignore[arg-type]
