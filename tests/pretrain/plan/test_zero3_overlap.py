"""ZeRO 3 hides groups that are gathered while the one before is at work, and reductions on a stream of their own."""

import pytest

from pretrain.plan.zero3_overlap import Zero3Calls, zero3_exposed


def test_a_model_of_one_group_hides_nothing() -> None:
    assert zero3_exposed(Zero3Calls(1, 0, 1), 5, 3, 100, 200, streams=True) == 8
    assert zero3_exposed(Zero3Calls(1, 0, 1), 5, 3, 100, 200, streams=False) == 8


@pytest.mark.parametrize("forward", [7.0, 70.0])
def test_of_many_groups_the_first_is_waited_for_and_what_is_slower_than_the_layers(forward: float) -> None:
    calls = Zero3Calls(forward=7, backward=7, gradients=3)
    one, last = 42 / 14, 12 / 3
    waits = one + 6 * max(0.0, one - forward / 7)
    assert zero3_exposed(calls, 42, 12, forward, 1000, streams=True) == pytest.approx(waits + last)
    assert zero3_exposed(calls, 42, 12, forward, 1000, streams=False) == pytest.approx(waits + 12)


def test_a_backward_pass_that_is_too_short_waits_for_the_rest() -> None:
    calls = Zero3Calls(forward=1, backward=1, gradients=2)
    assert zero3_exposed(calls, 20, 10, 100, 11, streams=True) == pytest.approx(10 + (10 + 5 - 11) + 5)
