"""What a kernel for ordinary attention is: softmax(Q K^T) V with grouped key/value heads.

In: queries, keys, values, sequence first. Out: the abstract class Kernel, and refusals that several kernels share.
Always: causal, of U <= T queries the last one being the last key's; packages are imported when the kernel is first
called.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from model.documents import Documents
from model.kernels.machine import Machine

HALF_TYPES = (torch.float16, torch.bfloat16)


class Kernel(ABC):
    """One kernel; it has no state."""

    name: ClassVar[str]
    """as a part of the forms' names"""
    title: ClassVar[str]
    """for people"""

    @abstractmethod
    def refusal(self, machine: Machine, dtype: torch.dtype, key_width: int, value_width: int) -> str | None:
        """Why it cannot take heads like these, as in "needs a CUDA device"; None: it can."""

    @abstractmethod
    def attend(
        self, q_UBNK: Tensor, k_TBGK: Tensor, v_TBGE: Tensor, documents: Documents | None, scale: float
    ) -> Tensor:
        """softmax(scale Q K^T) V: [U, B, N, E]. N is a multiple of G: query head j reads key head j // (N/G)."""

    def prepared(self, documents: Documents, dtype: torch.dtype) -> Documents:
        """The documents with what this kernel reads of them; most read their bounds."""
        return documents

    def layout_elements(self, keys: int) -> int:
        """What ``prepared`` adds for each query of so many keys, in elements of the tensors' type."""
        return 0


def needs_half_on_cuda(machine: Machine, dtype: torch.dtype, package: str) -> str | None:
    """What the kernels of optional packages ask for."""
    if machine.kind != "cuda":
        return "needs a CUDA device"
    if dtype not in HALF_TYPES:
        return "takes bf16 and fp16 alone"
    return None if package in machine.packages else f"needs {package}, which is not installed"
