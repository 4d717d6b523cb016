"""Weights are on their way as soon as they are updated, and a layer waits for its own only."""

from typing import Any

import pytest
import torch
from torch import nn

from pretrain.engines.zero import weights
from pretrain.engines.zero.flat import FlatBucket
from pretrain.engines.zero.weights import WeightReturn


class Work:
    def __init__(self, told: list[str], number: int) -> None:
        self._told = told
        self._number = number

    def wait(self) -> None:
        self._told.append(f"wait {self._number}")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens, in order; instead of being gathered, an own partition fills all of its bucket."""
    said: list[str] = []

    def gather(whole: torch.Tensor, own: torch.Tensor, group: Any) -> Work:
        number = int(own[0])
        said.append(f"send {number}")
        whole.view(-1, len(own)).copy_(own.expand(2, -1))
        return Work(said, number)

    monkeypatch.setattr(weights, "gather_flat", gather)
    return said


def buckets(layers: list[nn.Linear]) -> list[FlatBucket]:
    found = []
    for layer in layers:
        flat = torch.zeros(layer.weight.numel())
        layer.weight.data = flat.view(layer.weight.shape)
        half = len(flat) // 2
        found.append(FlatBucket((layer.weight,), flat, flat[:half].clone(), torch.zeros(half), None, torch.zeros(half)))
    return found


@pytest.mark.parametrize("overlap", [True, False])
def test_a_bucket_leaves_before_the_next_one_is_updated(told: list[str], overlap: bool) -> None:
    layers = [nn.Linear(2, 3, bias=False) for _ in range(3)]
    own = buckets(layers)
    returned = WeightReturn(own, group=object(), overlap=overlap)  # type: ignore[arg-type]
    returned.wait_before(layers, rest=nn.Identity())

    def update(index: int) -> None:
        told.append(f"update {index}")
        own[index].master.fill_(float(index))

    returned.start(update)
    begun = ["update 0", "send 0", "update 1", "send 1", "update 2", "send 2"]
    assert told == begun + ([] if overlap else ["wait 0", "wait 1", "wait 2"])
    told.clear()
    assert layers[1](torch.ones(1, 2)).tolist() == [[2.0, 2.0, 2.0]]
    layers[1](torch.ones(1, 2))
    returned.settle()
    assert told == (["wait 1", "wait 0", "wait 2"] if overlap else [])
