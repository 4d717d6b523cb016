"""On streams a chain of exchanges lies behind what made its gradients and before what reads its sums.

There is no GPU here: streams are stand-ins that note what is told to whom.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from model.parallel import ParameterInfo
from pretrain.engines.zero.beside import Beside
from pretrain.engines.zero.flat import FlatBucket
from pretrain.engines.zero.gradients import GradientExchange


class Device:
    """What is told to its streams, in order: (stream, what)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.current = FakeStream(self, "compute")
        self.made = 0

    def new_stream(self) -> "FakeStream":
        self.made += 1
        return FakeStream(self, f"beside {self.made}")

    @contextmanager
    def on(self, stream: "FakeStream") -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def tell(self, what: str) -> None:
        self.told.append((self.current.name, what))


class FakeStream:
    def __init__(self, device: Device, name: str) -> None:
        self.device, self.name = device, name

    def wait_stream(self, other: "FakeStream") -> None:
        self.device.told.append((self.name, f"waits for {other.name}"))


class Work:
    def __init__(self, device: Device, what: str) -> None:
        self.device, self.what = device, what

    def wait(self) -> None:
        self.device.tell(f"waits for {self.what}")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device()
    monkeypatch.setattr(torch.cuda, "Stream", found.new_stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: found.current)
    monkeypatch.setattr(torch.cuda, "stream", found.on)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: found.tell(f"kept for {stream.name}"))
    return found


def chain(device: Device, *names: str) -> Generator[Any, None, None]:
    for name in names:
        device.tell(f"asks for {name}")
        yield Work(device, name)
    device.tell("adds up")


def test_a_chain_lies_between_what_came_before_and_what_is_joined(device: Device) -> None:
    beside = Beside()
    beside.run(chain(device, "partition", "replicas"), torch.zeros(3), path="a")
    beside.join()
    assert device.told == [
        ("beside 1", "waits for compute"),
        ("beside 1", "asks for partition"),
        ("beside 1", "waits for partition"),
        ("beside 1", "asks for replicas"),
        ("beside 1", "waits for replicas"),
        ("beside 1", "adds up"),
        ("compute", "kept for beside 1"),
        ("compute", "waits for beside 1"),
    ]


def test_each_path_has_one_stream_and_all_are_joined(device: Device) -> None:
    beside = Beside()
    for path in ("a", "b", "a", "b", "b"):
        beside.run(chain(device), torch.zeros(3), path=path)
    assert [name for name, what in device.told if what == "adds up"] == [f"beside {n}" for n in (1, 2, 1, 2, 2)]
    beside.join()
    assert device.told[-2:] == [("compute", "waits for beside 1"), ("compute", "waits for beside 2")]


@pytest.mark.parametrize("keeps_sums", [True, False])
@pytest.mark.parametrize("overlap", [True, False])
def test_gradients_come_to_the_same_sums_and_are_joined_before_they_are_read(
    keeps_sums: bool, overlap: bool, device: Device
) -> None:
    """One rank alone: a chain is its sum."""
    found = []
    for beside in (None, Beside()):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(5, 3)) for _ in range(2)]
        buckets = []
        for number, parameter in enumerate(parameters):
            parameter.info = ParameterInfo(f"weight {number}", (5, 3))  # type: ignore[attr-defined]
            sums = torch.zeros(16)
            buckets.append(
                FlatBucket(
                    (parameter,), torch.zeros(16), torch.zeros(16), torch.zeros(16), sums if keeps_sums else None, sums
                )
            )
        exchange = GradientExchange(buckets, None, torch.float32, {}, overlap, beside)
        exchange.begin_step(2)
        for _ in range(2):
            sum((parameter**3).sum() for parameter in parameters).backward()  # type: ignore[union-attr]
        exchange.finish()
        found.append([bucket.own_sums.clone() for bucket in buckets])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))
    assert all(bool(one.any()) for one in found[0])
    waits = device.told.count(("compute", "waits for beside 1"))
    sent = device.told.count(("beside 1", "waits for compute"))
    assert sent == (2 if keeps_sums else 4)
    assert waits == (1 if overlap else 1 + sent)
    assert device.told[-1] == ("compute", "waits for beside 1")
