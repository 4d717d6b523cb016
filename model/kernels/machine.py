"""What a choice of kernels depends on beside the tensors: the device, and the packages that are installed.

In: a torch device. Out: a Machine. Always: packages are looked for, never imported; a Machine can also be described on
paper, for plans.
"""

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass

import torch

MODULES = {
    "flash-attn 2": "flash_attn_2_cuda",
    "flash-attn 3": "flash_attn_interface",
    "triton": "triton",
    "apex": "fused_layer_norm_cuda",
    "liger-kernel": "liger_kernel",
}
"""optional packages and a module that only they have; PyPI's package called apex is another project"""
DISTRIBUTIONS = {"flash-attn 4": ("flash-attn-4", (0, 0)), "flash-attn 2.8": ("flash-attn", (2, 8))}
"""the same where the module does not tell, and the least version: flash-attn 2 brings flash_attn.cute, too, without
what it needs; its rotation rounded angles to the type of what it rotates before 2.8"""
PACKAGES = frozenset({*MODULES, *DISTRIBUTIONS})


@dataclass(frozen=True)
class Machine:
    """One device."""

    kind: str
    """cpu, cuda or meta"""
    name: str
    """as tables of measurements call it: a GPU's name, or a CPU's instruction set"""
    capability: tuple[int, int] = (0, 0)
    """CUDA's compute capability"""
    packages: frozenset[str] = frozenset()
    """of ``PACKAGES``, those that are installed"""

    @classmethod
    def here(cls, device: torch.device | str) -> "Machine":
        """``device`` of this machine."""
        device = torch.device(device)
        if device.type == "cuda":
            name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
            return cls("cuda", name, capability, _installed())
        name = f"CPU with {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
        return cls(device.type, name, packages=_installed())


def _installed() -> frozenset[str]:
    modules = {name for name, module in MODULES.items() if importlib.util.find_spec(module) is not None}
    distributions = {name for name, distribution in DISTRIBUTIONS.items() if _has(*distribution)}
    return frozenset(modules | distributions)


def _has(distribution: str, least: tuple[int, int]) -> bool:
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= least
