"""Which implementation of norm, gate, rotation and cross-entropy runs: what was measured on this device, or asked for.

In: a Machine, the activations' type, and for each operation a name or `auto`. Out: a Rowwise. Always: `auto` takes what
TABLE has for the device; on a device that nobody has measured, the first of UNMEASURED that can run: what ran before
there was a choice. What is asked for and cannot run is refused in one line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import torch

from common.errors import InputError, nearest
from model.kernels.machine import Machine
from model.kernels.rowwise import cross_entropy, norm, packages, rotary, swiglu
from model.kernels.rowwise.cross_entropy import CrossEntropyKernel
from model.kernels.rowwise.implementation import Implementation
from model.kernels.rowwise.norm import NormKernel
from model.kernels.rowwise.rotary import RotaryKernel
from model.kernels.rowwise.swiglu import SwigluKernel

AUTO = "auto"


@dataclass(frozen=True)
class Rowwise:
    """The implementations in use."""

    norm: NormKernel
    swiglu: SwigluKernel
    rotary: RotaryKernel
    cross_entropy: CrossEntropyKernel
    unmeasured: str | None = field(default=None, compare=False)
    """name of the device, where nobody has measured which are the fastest there"""

    def describe(self) -> str:
        """In words, as in "norm torch, swiglu written, rotary written, cross_entropy written"."""
        names = ", ".join(f"{operation} {getattr(self, operation).name}" for operation in IMPLEMENTATIONS)
        return names if self.unmeasured is None else f"{names} (not measured on {self.unmeasured})"


@dataclass(frozen=True)
class Measured:
    """What was fastest on one device, forward and backward in a training step."""

    device: str
    """pattern of ``Machine.name``"""
    dtypes: tuple[torch.dtype, ...]
    names: Mapping[str, str]
    """by operation"""
    date: str
    where: str


IMPLEMENTATIONS: Mapping[str, tuple[Implementation, ...]] = {
    "norm": (norm.TORCH, norm.WRITTEN, norm.COMPILED, packages.APEX_NORM, packages.FLASH_NORM, packages.LIGER_NORM),
    "swiglu": (swiglu.WRITTEN, swiglu.COMPILED, packages.FLASH_SWIGLU),
    "rotary": (rotary.WRITTEN, rotary.COMPILED, packages.FLASH_ROTARY),
    "cross_entropy": (cross_entropy.WRITTEN, cross_entropy.COMPILED, packages.FLASH_CROSS_ENTROPY),
}
UNMEASURED = {
    "norm": ("apex", "torch", "written"),
    "swiglu": ("written",),
    "rotary": ("written",),
    "cross_entropy": ("written",),
}
ZEN4 = "2 cores of an AMD EPYC (Zen 4), torch 2.13; seconds of one thread, as other work ran beside it"
TABLE: tuple[Measured, ...] = (
    # `compiled` is faster (LOG.md), and is not taken: every start would compile for longer than small runs last.
    Measured(
        "CPU with AVX512",
        (torch.float32, torch.bfloat16),
        dict.fromkeys(IMPLEMENTATIONS, "written"),
        "2026-11-27",
        ZEN4,
    ),
)


def choose_rowwise(machine: Machine, dtype: torch.dtype, asked: Mapping[str, str]) -> Rowwise:
    """The implementations for activations of ``dtype``.

    Args:
        asked: names by operation; `auto` or none: the table decides.

    Raises:
        InputError: one that is asked for is unknown, or cannot run here; names the operation's setting.
    """
    chosen: dict[str, Any] = {}
    for operation in IMPLEMENTATIONS:
        name = asked.get(operation, AUTO)
        chosen[operation] = (
            _automatic(operation, machine, dtype) if name == AUTO else _wanted(operation, name, machine, dtype)
        )
    return Rowwise(**chosen, unmeasured=machine.name if _row(machine, dtype) is None else None)


def implementation_named(operation: str, name: str) -> Implementation:
    """The one that is called ``name``.

    Raises:
        InputError: there is none; names the operation's setting.
    """
    known = [one.name for one in IMPLEMENTATIONS[operation]]
    if name not in known:
        raise InputError(
            f"{setting_of(operation)}: expected auto or one of {', '.join(known)}, is {name!r}{nearest(name, known)}"
        )
    return IMPLEMENTATIONS[operation][known.index(name)]


def setting_of(operation: str) -> str:
    """The setting that overrides the choice."""
    return f"train.{operation}_kernel"


def _automatic(operation: str, machine: Machine, dtype: torch.dtype) -> Implementation:
    row = _row(machine, dtype)
    names = (*((row.names[operation],) if row else ()), *UNMEASURED[operation])
    usable = (implementation_named(operation, name) for name in names)
    return next(one for one in usable if one.refusal(machine, dtype) is None)


def _row(machine: Machine, dtype: torch.dtype) -> Measured | None:
    return next((row for row in TABLE if fnmatch(machine.name, row.device) and dtype in row.dtypes), None)


def _wanted(operation: str, name: str, machine: Machine, dtype: torch.dtype) -> Implementation:
    one = implementation_named(operation, name)
    if reason := one.refusal(machine, dtype):
        usable = [other.name for other in IMPLEMENTATIONS[operation] if other.refusal(machine, dtype) is None]
        raise InputError(f"{setting_of(operation)}: {name} {reason}; usable here: {', '.join([AUTO, *usable])}")
    return one
