"""Tells DeepSpeed which accelerator there is, before its first import, so that it neither guesses nor warns; and torch
where to keep what it compiles.

In: the machine. Out: environment variables. Always: what the user has set stays.
"""

import os

from common.library_caches import keep_compiled_code_private


def choose_accelerator() -> None:
    """Names the CPU where torch finds no GPU; call it before anything imports deepspeed."""
    import torch

    keep_compiled_code_private()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
