"""Time limits as sbatch's manual writes them."""

import pytest

from common.errors import InputError
from launch.slurm.time_limit import check_limit, limit_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("24:00:00", 86_400),
        ("7-00", 604_800),
        ("1-2:03", 93_780),
        ("1-2:03:04", 93_784),
        ("UNLIMITED", None),
        ("infinite", None),
        ("0", None),
    ],
)
def test_every_form_of_a_limit_is_read(text: str, seconds: int | None) -> None:
    assert limit_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "1d", "1:2:3:4", "1-", "-5", "1.5", "24h", " 60", "6\u0660", "9" * 5000, "60\n"])
def test_what_sbatch_does_not_take_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="time_limit: takes MINUTES"):
        limit_seconds(text)


def test_a_limit_within_the_warning_is_refused() -> None:
    check_limit("10", 300)
    with pytest.raises(InputError, match="without having trained"):
        check_limit("6", 300)
