"""config.json of a Hugging Face folder, whose every value is looked at before anything is computed with it.

In: a folder. Out: whole numbers, numbers, flags and words by their names. Always: a value that is missing, of another
kind or out of range is one line that names the file and the key; null stands for a missing value, as in transformers.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import read_json
from common.typed import shown

CONFIG = "config.json"


@dataclass(frozen=True)
class HubConfig:
    """The settings of the model in a folder."""

    path: Path
    values: Mapping[str, Any]

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(key, f"expected a whole number from {low} to {high}, found {shown(value)}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number above ``low`` and at most ``high``."""
        return self.as_number(key, self._value(key, default), low, high)

    def as_number(self, key: str, value: Any, low: float, high: float) -> float:
        """``value``, which stands under ``key``, as such a number."""
        if not isinstance(value, int | float) or isinstance(value, bool) or not low < value <= high:
            raise self.wrong(key, f"expected a number above {low:g} and at most {high:g}, found {shown(value)}")
        return float(value)

    def numbers(self, key: str, count: int, low: float, high: float) -> list[float]:
        """A list of ``count`` such numbers, ``low`` itself included."""
        value = self._value(key, None)
        if not isinstance(value, list) or len(value) != count:
            raise self.wrong(key, f"expected a list of {count} numbers, found {shown(value)}")
        return [self.as_number(key, entry, math.nextafter(low, -math.inf), high) for entry in value]

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, f"expected true or false, found {shown(value)}")
        return value

    def word(self, key: str, choices: Collection[str]) -> Any:
        """One of ``choices``."""
        value = self._value(key, None)
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(key, f"expected one of {', '.join(choices)}, found {shown(value)}")
        return value

    def section(self, key: str) -> Mapping[str, Any]:
        """A mapping; empty where there is none."""
        value = self.values.get(key)
        if not isinstance(value, dict | None):
            raise self.wrong(key, f"expected a mapping, found {shown(value)}")
        return value or {}

    def wrong(self, key: str, problem: str) -> InputError:
        """The error about ``key``."""
        return InputError(f"{self.path}: {key}: {problem}")

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None and default is None:
            raise InputError(f"{self.path}: lacks '{key}'")
        return default if value is None else value


def read_hub_config(folder: Path) -> HubConfig:
    """Reads config.json of ``folder``.

    Raises:
        InputError: no such file, or one that holds no settings.
    """
    path = folder / CONFIG
    values = read_json(path, "model configuration")
    if not isinstance(values, dict):
        raise InputError(f"{path}: damaged: holds no settings, but {shown(values)}")
    return HubConfig(path, values)
