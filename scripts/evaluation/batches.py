"""Prompts of different lengths in one batch.

In: prompts as token ids. Out: rectangles of them. Always: padding stands on the left, so that prompts end together.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """(ids, mask) of prompts that end together; no mask where none is needed, which saves its memory."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids.to(device), None if bool(mask.all()) else mask.to(device)


def batches_of(lengths: Sequence[int], most_tokens: int) -> list[range]:
    """Consecutive ranges whose padded size stays within ``most_tokens``; of ascending lengths."""
    batches, start = [], 0
    for index, length in enumerate(lengths):
        if index > start and (index - start + 1) * length > most_tokens:
            batches.append(range(start, index))
            start = index
    return [*batches, range(start, len(lengths))] if lengths else []
