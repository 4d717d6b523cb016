"""A recorder takes what layers give it while it is open, and its parts add up to what one process would have found."""

import math

import pytest
import torch

from model.recorder import Recorder, Reduce, finished

VALUES = [torch.tensor([0.5, -3.25, 7.0]), torch.tensor([[2.0], [-11.0]])]
ALL = [0.5, -3.25, 7.0, 2.0, -11.0]
EXPECTED: dict[Reduce, float] = {
    "mean": sum(ALL) / 5,
    "rms": math.sqrt(sum(value**2 for value in ALL) / 5),
    "norm": math.sqrt(sum(value**2 for value in ALL)),
    "max": 7.0,
}


def number(recorder: Recorder, name: str) -> float:
    (found,) = [entry for key, entry in recorder.close().items() if key == name]
    return finished(found.reduce, *(found.parts.tolist() if found.reduce != "max" else (float(found.parts), 1.0)))


@pytest.mark.parametrize("reduce", EXPECTED)
def test_values_of_several_calls_count_as_if_recorded_at_once(reduce: Reduce) -> None:
    recorder = Recorder()
    recorder.open()
    for values in VALUES:
        recorder.record("x", values, reduce)
    assert number(recorder, "x") == pytest.approx(EXPECTED[reduce], rel=1e-12)


def test_quotients_divide_sums_and_not_each_value() -> None:
    recorder = Recorder()
    recorder.open()
    recorder.record("x", torch.tensor([3.0, 4.0]), "rms", over=torch.tensor(2.0))
    recorder.record("x", torch.tensor(12.0), "rms", over=torch.tensor(6.0))
    assert number(recorder, "x") == pytest.approx(math.sqrt((9 + 16 + 144) / (4 + 36)))


def test_a_closed_recorder_keeps_nothing_and_an_open_one_starts_empty() -> None:
    recorder = Recorder()
    recorder.record("x", torch.ones(3), "mean")
    recorder.open()
    recorder.record("x", torch.full((2,), 5.0), "mean")
    assert number(recorder, "x") == 5.0
    recorder.record("x", torch.ones(3), "mean")
    assert recorder.close() == {}


def test_places_share_one_page_and_tell_where_a_number_is_from() -> None:
    recorder = Recorder()
    blocks = [recorder.within(f"blocks.{index}.").within("attention.") for index in range(2)]
    recorder.open()
    assert all(block.recording for block in blocks)
    for block in blocks:
        block.record("lambda", torch.tensor(0.5), "mean")
    assert list(recorder.close()) == ["blocks.0.attention.lambda", "blocks.1.attention.lambda"]
    assert not any(block.recording for block in blocks)


def test_a_pause_is_over_when_it_is_over() -> None:
    recorder = Recorder()
    inner = recorder.within("blocks.0.")
    for opened in (False, True):
        if opened:
            recorder.open()
        with recorder.paused():
            assert not inner.recording
            inner.record("x", torch.ones(1), "mean")
        assert inner.recording is opened
    assert recorder.close() == {}


def test_nothing_recorded_is_no_number() -> None:
    assert math.isnan(finished("mean", 0.0, 0.0)) and math.isnan(finished("norm", 0.0, 0.0))


def test_gradients_do_not_flow_into_what_is_recorded() -> None:
    recorder = Recorder()
    recorder.open()
    recorder.record("x", torch.ones(3, requires_grad=True) * 2, "rms")
    assert not recorder.close()["x"].parts.requires_grad


def test_squares_of_half_precision_are_added_in_more() -> None:
    recorder = Recorder()
    recorder.open()
    recorder.record("x", torch.full((10_000,), 300.0, dtype=torch.bfloat16), "norm")
    exact = float(torch.tensor(300.0, dtype=torch.bfloat16)) * 100
    assert number(recorder, "x") == pytest.approx(exact, rel=1e-7)
