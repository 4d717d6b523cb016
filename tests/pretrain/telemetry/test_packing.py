"""What ranks pack adds up to the numbers of all, whatever each of them knows."""

import math

import pytest
import torch

from model.recorder import Recorder, Reduce
from pretrain.telemetry.packing import Packing
from tests.world import run_world

NUMBERS: dict[str, Reduce] = {"a": "mean", "b": "max", "c": "rms", "d": "norm", "e": "max", "f": "mean"}


def told(rank: int) -> Recorder:
    """Rank 0 knows a, b and c, rank 1 knows a, b and d; nobody knows e and f."""
    recorder = Recorder()
    recorder.open()
    recorder.record("a", torch.tensor([[1.0, 2.0, 6.0], [-4.5]][rank]), "mean")
    recorder.record("b", torch.tensor([-3.0, -2.5][rank]), "max")
    if rank == 0:
        recorder.record("c", torch.tensor([3.0, 4.0]), "rms", over=torch.tensor(2.0))
    else:
        recorder.record("d", torch.tensor([6.0, -8.0]), "norm")
    return recorder


def add_up() -> dict[str, float]:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    packing = Packing(NUMBERS)
    packed = packing.pack(told(dist.get_rank()).close(), torch.device("cpu"))
    packing.reduce(packed)
    return packing.unpack(packed)


def test_ranks_add_up_what_each_of_them_knows() -> None:
    expected = {"a": 4.5 / 4, "b": -2.5, "c": math.sqrt(25 / 4), "d": 10.0}
    for numbers in run_world(2, add_up):
        assert list(numbers) == list(NUMBERS)
        assert {name: numbers[name] for name in expected} == pytest.approx(expected, rel=1e-15)
        assert numbers["e"] == -math.inf and math.isnan(numbers["f"])


def test_a_number_that_nobody_expects_is_named() -> None:
    recorder = told(0)
    recorder.record("surprise", torch.ones(1), "mean")
    with pytest.raises(KeyError, match="surprise: recorded, but not by the plain model"):
        Packing(NUMBERS).pack(recorder.close(), torch.device("cpu"))
