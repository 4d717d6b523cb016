"""Numbers from the environment are checked before anything counts on them."""

import pytest

from common.environment import whole_number
from common.errors import InputError


def test_what_launchers_set_is_taken_and_what_is_missing_has_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "12")
    assert whole_number("WORLD_SIZE", 1, low=1) == 12
    monkeypatch.delenv("WORLD_SIZE")
    assert whole_number("WORLD_SIZE", 1, low=1) == 1


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "1.0", "²", "9" * 5000])
def test_anything_else_is_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", text)
    with pytest.raises(InputError, match=r"^LOCAL_WORLD_SIZE: must be a whole number, 1 or more, is '") as refused:
        whole_number("LOCAL_WORLD_SIZE", 1, low=1)
    assert len(str(refused.value)) < 250
