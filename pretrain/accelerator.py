"""Tells DeepSpeed which accelerator there is, before its first import, so that it neither guesses nor warns.

In: the machine. Out: an environment variable. Always: what the user has set stays.
"""

import os


def choose_accelerator() -> None:
    """Names the CPU where torch finds no GPU; call it before anything imports deepspeed."""
    import torch

    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
