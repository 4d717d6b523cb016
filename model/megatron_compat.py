"""What megatron-core takes for granted and a machine without CUDA has not.

In: nothing. Out: a patched name. Always: with CUDA it changes nothing; no other file changes a library, and
tests/model/test_megatron_compat.py holds the reason.
"""

import torch


def let_megatron_run_on_cpu() -> None:
    """Makes ``torch.cuda.current_device()`` answer the CPU on a machine without CUDA.

    megatron-core's gathers and scatters allocate their results there, whatever device their input lies on.
    """
    if not torch.cuda.is_available():
        torch.cuda.current_device = _cpu_device  # type: ignore[assignment]


def _cpu_device() -> torch.device:
    return torch.device("cpu")
