"""Ranges of settings: the value, its name and the bound that it misses are said in one line."""

import math
from dataclasses import dataclass

import pytest

from common.errors import InputError
from common.ranges import check_filled, check_range


@dataclass(frozen=True)
class Section:
    share: float | None = 0.5
    count: int = 3
    text: str | None = "x"

    def __post_init__(self) -> None:
        check_range(self, "section.", "share", low=0, below=1)
        check_range(self, "section.", "count", above=0, high=20_000)
        check_filled(self, "section.", "text")


def test_what_lies_within_passes() -> None:
    for values in (
        {},
        {"share": 0.0},
        {"share": None},
        {"count": 20_000},
        {"text": None},
        {"text": "s3://x/" + "y" * 300},
        {"share": 0.999},
    ):
        Section(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": -0.1}, "section.share: must be at least 0, is -0.1"),
        ({"share": 1.0}, "section.share: must be below 1, is 1.0"),
        ({"share": math.nan}, "section.share: must be at least 0 and below 1, is nan"),
        ({"share": math.inf}, "section.share: must be below 1, is inf"),
        ({"count": 0}, "section.count: must be above 0, is 0"),
        ({"count": 10**30}, f"section.count: must be at most 20,000, is {10**30}"),
        ({"text": "a/" + "é" * 200}, "section.text: a name of 400 bytes; file systems take at most 255"),
        ({"text": " "}, "section.text: is empty; name something, or leave it out"),
    ],
)
def test_what_does_not_is_one_line(values: dict[str, float], message: str) -> None:
    with pytest.raises(InputError) as error:
        Section(**values)  # type: ignore[arg-type]
    assert str(error.value) == message
