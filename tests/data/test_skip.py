"""The skip list: later samples move up, earlier ones stay."""

import numpy as np
import pytest

from common.errors import InputError
from data.config import SkipConfig
from data.skip import SkipList

SKIP = SkipList([SkipConfig(20, 24), SkipConfig(5, 9), SkipConfig(8, 11), SkipConfig(0, 0)])


def test_skipped_samples_are_left_out_in_order() -> None:
    left = [number for number in range(40) if number != 0 and not 5 <= number <= 11 and not 20 <= number <= 24]
    assert SKIP.number_of(np.arange(len(left))).tolist() == left
    assert [SKIP.trained_of(number) for number in left] == list(range(len(left)))
    assert SKIP.trained_of(0) is SKIP.trained_of(9) is SKIP.trained_of(22) is None


def test_overlapping_ranges_are_one() -> None:
    assert SKIP.ranges == [(0, 0), (5, 11), (20, 24)]
    assert SKIP.before(22) == [(0, 0), (5, 11), (20, 21)]


def test_how_far_the_order_is_after_some_samples() -> None:
    assert [SKIP.passed(trained) for trained in (0, 1, 4, 5, 12)] == [0, 2, 5, 13, 20]
    assert SkipList([]).passed(7) == 7


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.skip: first must be 0 to last, is first 5, last 4"):
        SkipConfig(5, 4)
