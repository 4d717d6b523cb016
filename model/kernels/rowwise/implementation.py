"""What implementations of one operation have in common: a name, and what they need.

In: a Machine and a type of activations. Out: why one cannot run, or None. Always: nothing is imported to find out.
"""

from dataclasses import dataclass

import torch

from model.kernels.machine import Machine

HALF_TYPES = (torch.float16, torch.bfloat16)
GPU_TYPES = (*HALF_TYPES, torch.float32)


@dataclass(frozen=True)
class Needs:
    """What must be there."""

    gpu: bool = False
    """a CUDA device"""
    package: str | None = None
    """of model.kernels.machine.PACKAGES"""
    dtypes: tuple[torch.dtype, ...] | None = None
    """types of activations that it takes; None: any"""


ANYWHERE = Needs()


@dataclass(frozen=True)
class Implementation:
    """One of several that compute the same."""

    name: str
    """what the settings say"""
    needs: Needs

    def refusal(self, machine: Machine, dtype: torch.dtype) -> str | None:
        """Why it cannot run, as in "needs a CUDA device"; None: it can."""
        needs = self.needs
        if needs.gpu and machine.kind != "cuda":
            return "needs a CUDA device"
        if needs.package is not None and needs.package not in machine.packages:
            return f"needs {needs.package}, which is not installed"
        if needs.dtypes is not None and dtype not in needs.dtypes:
            return f"does not take {str(dtype).removeprefix('torch.')}"
        return None
