"""The figures of one device, as a file.

In: what was measured. Out: JSON with the device's name, the date and the versions. Always: written after every part, so
that a part that fails takes no other with it.
"""

import dataclasses
import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError
from common.software import versions

PACKAGES = ("torch", "triton", "flash-attn", "flash-attn-4", "liger-kernel", "apex", "deepspeed", "megatron-core")


class Results:
    """What has been found so far."""

    def __init__(self, path: Path, device: str, rehearsal: bool) -> None:
        self._path = path
        self._found: dict[str, Any] = {
            "rehearsal": rehearsal,
            "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            "versions": _versions(),
        }

    def add(self, part: str, rows: Iterable[Any]) -> None:
        """Takes dataclasses, and writes all that is there."""
        self._found[part] = [dataclasses.asdict(row) for row in rows]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._found, indent=1) + "\n", encoding="utf-8")


def read_results(path: Path) -> dict[str, Any]:
    """What ``Results`` has written.

    Raises:
        InputError: no such file, not one of these, or a rehearsal's, whose figures mean nothing.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--readme {path}: cannot be read as results of make bench-gpu: {error}") from None
    if not isinstance(found, dict) or not {"device", "date", "rehearsal"} <= found.keys():
        raise InputError(f"--readme {path}: is no file that make bench-gpu has written")
    if found["rehearsal"]:
        raise InputError(f"--readme {path}: is of a rehearsal, whose figures mean nothing; run it on a GPU")
    return found


def _versions() -> dict[str, str]:
    return dict.fromkeys(PACKAGES, "not installed") | versions(PACKAGES) | {"cuda": str(torch.version.cuda)}
